// Q3_K: superblocks of 8 blocks; w = (d * sc) * q - 4 (d * sc), three-bit q (two low bits as in Q2_K, the
// third in a word of its own), signed sc per 16 elements.
#define SCALES_PER_BLOCK 2
#define HAS_OFFSET 1
#define CODE_SCALE(j) BYTE_SCALE
#define CODE_CENTER 4.0
struct Block {
    uvec2 q;
    uint third;
    vec2 d;
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint super_ = block / 8u, num_super = nb / 8u, in_super = block & 7u;
    k.q = half_vector(QUANTS((group * (nb / 2u) + block / 2u) * GROUP_ROWS + lane), block);
    k.third = scale_word(group, super_, num_super, 13u, 5u + in_super, lane);
    float d = unpackHalf2x16(scale_word(group, super_, num_super, 13u, 0u, lane)).x;
    int sc =
        int(scale_word(group, super_, num_super, 13u, 1u + in_super / 2u, lane) >> ((in_super & 1u) * 16u));
    k.d = d * vec2(bitfieldExtract(sc, 0, 8), bitfieldExtract(sc, 8, 8));
    return k;
}
float block_scale(Block k, uint half_) { return k.d[half_]; }
float block_offset(Block k, uint half_) { return -4.0 * k.d[half_]; }
uint code_bytes(Block k, uint j) {
    return pair_bytes(k.q, j) | ((j < 2u ? k.third << (2u - j) : k.third >> (j - 2u)) & 0x04040404u);
}
vec4 codes(Block k, uint j) { return bytes_of(code_bytes(k, j)); }
