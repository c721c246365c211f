// IQ4_NL and IQ4_XS: 32 nibbles that stand for 16 values (IQ4_VALUES in vkbackend/gguf/blocks.py). Codes are
// 127 + the value. The scale is a half; of IQ4_XS, a six-bit number less 32 times a half of 8 blocks.
#define SCALES_PER_BLOCK 1
#define HAS_OFFSET 1
#define CODE_SCALE(j) vec4(1.0)
#define CODE_CENTER 127.0
layout(constant_id = 20) const bool IS_XS = false;
struct Block {
    uvec4 q;
    float d;
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    if (IS_XS) {
        uint super_ = block / 8u, num_super = nb / 8u, in_super = block & 7u;
        uint first = scale_word(group, super_, num_super, 2u, 0u, lane);
        uint low = (scale_word(group, super_, num_super, 2u, 1u, lane) >> (4u * in_super)) & 15u;
        uint high = (first >> (16u + 2u * in_super)) & 3u;
        k.d = unpackHalf2x16(first).x * float(int(low | high << 4u) - 32);
    } else {
        k.d = paired_half(scale_word(group, block / 2u, (nb + 1u) / 2u, 1u, 0u, lane), block);
    }
    return k;
}
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
