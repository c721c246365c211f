// The two planes of a packed weight, shared by all formats. Layout: README.md.
// The includer of a format defines QUANTS_BINDING and SCALES_BINDING first.
//
// A format file defines:
//   struct Block                          one row's 32 weights, still packed
//   Block load_block(group, block, lane, num_blocks)
//                                         row GROUP_ROWS * group + lane, elements 32 * block ... + 31;
//                                         num_blocks: of a row
//   vec4 codes(Block, j)                  elements 4j ... + 3 before scaling, divided by CODE_SCALE(j); j is
//                                         a constant 0..7
//   uint code_bytes(Block, j)             the same codes as bytes, first one lowest (not for plain formats)
//   float block_scale(Block, half_)       scale of elements 0..15 (half_ 0) or 16..31 (1)
//   float block_offset(Block, half_)      added to every scaled element (if HAS_OFFSET is 1)
//   SCALES_PER_BLOCK                      0 (plain: codes are the weights), 1 or 2
//   HAS_OFFSET                            0 or 1
//   CODE_SCALE(j)                         powers of two: codes may stay at their position in a word or byte,
//                                         which saves shifts, when activations are multiplied by it instead:
//                                         every product is exactly the same
//   CODE_CENTER                           middle of the codes' range: sums in float16 keep more precision
//                                         if it is subtracted first
// TEXEL: the planes are uniform texel buffers, which llvmpipe gathers 12 times as fast as storage buffers.
const uint GROUP_ROWS = 64u;      // neighboring rows; GROUP in vkbackend/gguf/quants.py
const uint BLOCK_ELEMENTS = 32u;  // of a packed block; BLOCK in vkbackend/gguf/quants.py
const uint BLOCK_FOURS = 8u;

#ifdef FOLD_LOADS
uint loaded = 0u;  // combines all loads, so that none is optimized away
uvec4 FOLD(uvec4 v) {
    loaded ^= v.x ^ v.y ^ v.z ^ v.w;
    return v;
}
uint FOLD(uint v) {
    loaded ^= v;
    return v;
}
#else
#define FOLD(v) (v)
#endif

#ifdef TEXEL
layout(binding = QUANTS_BINDING) uniform usamplerBuffer quants;
layout(binding = SCALES_BINDING) uniform usamplerBuffer scales;
#define QUANTS(i) FOLD(texelFetch(quants, int(i)))
#define SCALES(i) FOLD(texelFetch(scales, int(i)).x)
#else
layout(std430, binding = QUANTS_BINDING) readonly restrict buffer Quants { uvec4 quants[]; };
layout(std430, binding = SCALES_BINDING) readonly restrict buffer Scales { uint scales[]; };
#define QUANTS(i) FOLD(quants[i])
#define SCALES(i) FOLD(scales[i])
#endif

// Word t of a row's record number `record`, which has `words` uints.
uint scale_word(uint group, uint record, uint num_records, uint words, uint t, uint lane) {
    return SCALES(((group * num_records + record) * words + t) * GROUP_ROWS + lane);
}

// A GPU converts any byte of a word in one instruction, so its kernels move codes to bytes first. llvmpipe
// would shift each of them: its kernels (TEXEL) leave codes in place. They convert signed numbers, since AVX2
// has no unsigned conversion and llvmpipe takes six instructions for one; the topmost code of a word is
// shifted down, since its highest bit would be the sign.

// Four bytes. BYTE_SCALE makes them numbers below 256.
#ifdef TEXEL
vec4 bytes_of(uint v) { return vec4(ivec4(v & 0xffu, v & 0xff00u, v & 0xff0000u, v >> 24)); }
#define BYTE_SCALE vec4(1.0, 1.0 / 256.0, 1.0 / 65536.0, 1.0)
#else
vec4 bytes_of(uint v) { return vec4(uvec4(v & 0xffu, (v >> 8) & 0xffu, (v >> 16) & 0xffu, v >> 24)); }
#define BYTE_SCALE vec4(1.0)
#endif

// Nibbles of a 16-byte block: byte i holds element i (low) and element i + 16 (high). j is a constant.
// NIBBLE_SCALE makes them numbers below 16.
#ifdef TEXEL
vec4 nibbles_of(uvec4 q, uint j) {
    uint v = q[j & 3u];
    return vec4(j < 4u ? ivec4(v & 0xfu, v & 0xf00u, v & 0xf0000u, v & 0xf000000u)
                       : ivec4(v & 0xf0u, v & 0xf000u, v & 0xf00000u, v >> 28));
}
#define NIBBLE_SCALE(j)                                                 \
    ((j) < 4u ? vec4(1.0, 1.0 / 256.0, 1.0 / 65536.0, 1.0 / 16777216.0) \
              : vec4(1.0 / 16.0, 1.0 / 4096.0, 1.0 / 1048576.0, 1.0))
#else
vec4 nibbles_of(uvec4 q, uint j) { return bytes_of(q[j & 3u] & (j < 4u ? 0x0f0f0f0fu : 0xf0f0f0f0u)); }
#define NIBBLE_SCALE(j) vec4((j) < 4u ? 1.0 : 1.0 / 16.0)
#endif

// The same as bytes, four to a word.
uint nibble_bytes(uvec4 q, uint j) { return (q[j & 3u] >> (j < 4u ? 0u : 4u)) & 0x0f0f0f0fu; }
// Further bits of these elements: bit n of nibble i of the block's word w is at 4i + at + n in `bits`; count:
// bits of an element. Combined as bytes, four elements at a time, before they are taken apart: two thirds of
// the instructions.
uint bits_above_bytes(uint bits, uint j, uint at, uint count) {
    return (j < 4u ? bits << (4u - at) : bits >> at) & (0x10101010u * ((1u << count) - 1u));
}

// Pairs of bits of an 8-byte block: bits 2n of byte c of word u hold element 8n + 4u + c. j is a constant.
// PAIR_SCALE makes them numbers below 4.
#ifdef TEXEL
vec4 pairs_of(uvec2 q, uint j) {
    uint v = q[j & 1u], at = j / 2u * 2u;
    return vec4(ivec4(v & (3u << at), v & (0x300u << at), v & (0x30000u << at),
                      at == 6u ? v >> 30 : v & (0x3000000u << at)));
}
#define PAIR_SCALE(j) \
    (vec4(1.0, 1.0 / 256.0, 1.0 / 65536.0, (j) < 6u ? 1.0 / 16777216.0 : 64.0) / float(1u << ((j) / 2u * 2u)))
#else
vec4 pairs_of(uvec2 q, uint j) { return bytes_of(q[j & 1u] & (0x03030303u << (j / 2u * 2u))); }
#define PAIR_SCALE(j) vec4(1.0 / float(1u << ((j) / 2u * 2u)))
#endif
uint pair_bytes(uvec2 q, uint j) { return (q[j & 1u] >> (j / 2u * 2u)) & 0x03030303u; }

// Two blocks share one vector: the even one has its first half.
uvec2 half_vector(uvec4 v, uint block) { return (block & 1u) == 0u ? v.xy : v.zw; }

// Two blocks share one word of half-precision scales.
float paired_half(uint word, uint block) { return unpackHalf2x16(word)[block & 1u]; }
