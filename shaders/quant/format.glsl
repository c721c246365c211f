// The format of the build variant: FORMAT in variants.toml.
#include "planes.glsl"
#include "selected_format.glsl"  // written by build.py: includes the format's file of this folder

// Elements 4j ... 4j+3 of a block, dequantized (for gathers; matmul scales whole blocks instead).
vec4 weights(Block k, uint j) {
#if SCALES_PER_BLOCK == 0
    return codes(k, j);
#elif HAS_OFFSET
    return codes(k, j) * CODE_SCALE(j) * block_scale(k, j >> 2) + block_offset(k, j >> 2);
#else
    return codes(k, j) * CODE_SCALE(j) * block_scale(k, j >> 2);
#endif
}
