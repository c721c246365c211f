// The format that the build variant names: compiled with -DFORMAT=Q4_1 and the like. A new format is a line here,
// a file beside this one, a row in variants.toml and a QuantFormat in vkbackend/gguf/quants.py.
#define F32 0
#define F16 1
#define Q4_0 2
#define Q4_1 3
#define Q5_0 6
#define Q5_1 7
#define Q8_0 8
#define Q2_K 10
#define Q3_K 11
#define Q4_K 12
#define Q5_K 13
#define Q6_K 14
#define BF16 30
#include "planes.glsl"
#if FORMAT == F32
#include "f32.glsl"
#elif FORMAT == F16
#include "f16.glsl"
#elif FORMAT == BF16
#include "bf16.glsl"
#elif FORMAT == Q4_0
#include "q4_0.glsl"
#elif FORMAT == Q4_1
#include "q4_1.glsl"
#elif FORMAT == Q5_0
#include "q5_0.glsl"
#elif FORMAT == Q5_1
#include "q5_1.glsl"
#elif FORMAT == Q8_0
#include "q8_0.glsl"
#elif FORMAT == Q2_K
#include "q2_k.glsl"
#elif FORMAT == Q3_K
#include "q3_k.glsl"
#elif FORMAT == Q4_K
#include "q4_k.glsl"
#elif FORMAT == Q5_K
#include "q5_k.glsl"
#elif FORMAT == Q6_K
#include "q6_k.glsl"
#else
#error unknown FORMAT
#endif

// Elements 4j ... 4j+3 of a block, dequantized (for gathers; matmul scales whole blocks instead).
vec4 weights(Block k, uint j) {
#if SCALES_PER_BLOCK == 0
    return codes(k, j);
#elif HAS_BIAS
    return codes(k, j) * CODE_SCALE(j) * block_scale(k, j >> 2) + block_bias(k, j >> 2);
#else
    return codes(k, j) * CODE_SCALE(j) * block_scale(k, j >> 2);
#endif
}
