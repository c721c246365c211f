// Shared by iq4_nl.glsl and iq4_xs.glsl: 32 nibbles that stand for 16 values (IQ4_VALUES in
// vkbackend/gguf/blocks.py). Codes are 127 + the value.
#define SCALES_PER_BLOCK 1
#define HAS_OFFSET 1
#define CODE_SCALE(j) vec4(1.0)
#define CODE_CENTER 127.0
struct Block {
    uvec4 q;
    float d;
};

float block_scale(Block k, uint half_) { return k.d; }
float block_offset(Block k, uint half_) { return -127.0 * k.d; }
// The code of the nibble at bit `at` of v. A select and a shift take fewer instructions than an array, which
// llvmpipe keeps in memory.
uint code_at(uint v, uint at) {
    uint low = (v & (4u << at)) == 0u ? 0x3e2c1700u : 0x75695c4eu;
    uint high = (v & (4u << at)) == 0u ? 0xa5988c80u : 0xf0d8c4b4u;
    uint four = (v & (8u << at)) == 0u ? low : high;
    return (four >> (((v >> at) & 3u) * 8u)) & 0xffu;
}
uvec4 four_codes(Block k, uint j) {
    uint v = k.q[j & 3u], at = j < 4u ? 0u : 4u;
    return uvec4(code_at(v, at), code_at(v, at + 8u), code_at(v, at + 16u), code_at(v, at + 24u));
}
uint code_bytes(Block k, uint j) {
    uvec4 four = four_codes(k, j);
    return four.x | four.y << 8u | four.z << 16u | four.w << 24u;
}
vec4 codes(Block k, uint j) { return vec4(ivec4(four_codes(k, j))); }
