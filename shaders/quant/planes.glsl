// The two planes of a packed weight, shared by all formats. Layout: docs/architecture.md, "Packed device layout".
// Whoever includes a format defines QUANTS_BINDING and SCALES_BINDING first.
//
// A format file gives:
//   struct Block                                  one row's 32 weights, still packed
//   Block load_block(group, block, lane, nb)      row = GROUP_ROWS * group + lane, elements 32*block ... +31; nb = blocks per row
//   vec4  codes(Block, j)                         elements 4j ... 4j+3 before scaling, j a constant 0..7
//   float block_scale(Block, half_)               scale of elements 0..15 (half_ 0) or 16..31 (1)
//   float block_bias(Block)                       added to every scaled element (0 where HAS_BIAS is 0)
//   SCALES_PER_BLOCK 0 (codes are the weights), 1 or 2;  HAS_BIAS 0 or 1
// TEXEL: the planes are uniform texel buffers (llvmpipe gathers those 12 times faster than storage buffers).
const uint GROUP_ROWS = 64u;  // rows that lie beside each other; also in vkbackend/gguf/quants.py

#ifdef TEXEL
layout(binding = QUANTS_BINDING) uniform usamplerBuffer quants;
layout(binding = SCALES_BINDING) uniform usamplerBuffer scales;
#define QUANTS(i) texelFetch(quants, int(i))
#define SCALES(i) texelFetch(scales, int(i)).x
#else
layout(std430, binding = QUANTS_BINDING) readonly restrict buffer Quants { uvec4 quants[]; };
layout(std430, binding = SCALES_BINDING) readonly restrict buffer Scales { uint scales[]; };
#define QUANTS(i) quants[i]
#define SCALES(i) scales[i]
#endif

// Word t of a record of `words` uints that each row has once per `record`.
uint scale_word(uint group, uint record, uint num_records, uint words, uint t, uint lane) {
    return SCALES(((group * num_records + record) * words + t) * GROUP_ROWS + lane);
}

vec4 signed_bytes(uint v) {
    return vec4(bitfieldExtract(int(v), 0, 8), bitfieldExtract(int(v), 8, 8), bitfieldExtract(int(v), 16, 8), int(v) >> 24);
}

vec4 unsigned_bytes(uint v) {
    return vec4(v & 255u, (v >> 8) & 255u, (v >> 16) & 255u, v >> 24);
}

// Nibbles of a 16-byte block: byte i holds element i (low) and element i + 16 (high). j is a constant.
uint nibble_bytes(uvec4 q, uint j) {
    return (j < 4u ? q[j & 3u] : q[j & 3u] >> 4) & 0x0f0f0f0fu;
}

// Bits 4j ... 4j+3 of `bits`, one in each byte, at bit 4: the fifth bit of four neighbouring elements.
uint fifth_bits(uint bits, uint j) {
    uint four = (bits >> (4u * j)) & 15u;
    return ((four & 1u) | ((four & 2u) << 7) | ((four & 4u) << 14) | ((four & 8u) << 21)) << 4;
}

// Two blocks share one word of half-precision scales.
float paired_half(uint word, uint block) {
    return unpackHalf2x16(word)[block & 1u];
}
