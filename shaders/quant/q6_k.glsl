// Q6_K: superblocks of 8 blocks; w = (d * sc) * q - 32 (d * sc), six-bit q (four low bits in the nibbles, two
// high bits apart), signed eight-bit sc per 16 elements.
#define SCALES_PER_BLOCK 2
#define HAS_OFFSET 1
#define CODE_SCALE(j) BYTE_SCALE
#define CODE_CENTER 32.0
struct Block {
    uvec4 q;
    uint high[2];
    vec2 d;
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint super_ = block / 8u, num_super = nb / 8u, in_super = block & 7u;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    k.high[0] = scale_word(group, super_, num_super, 21u, 5u + 2u * in_super, lane);
    k.high[1] = scale_word(group, super_, num_super, 21u, 6u + 2u * in_super, lane);
    float d = unpackHalf2x16(scale_word(group, super_, num_super, 21u, 0u, lane)).x;
    int sc =
        int(scale_word(group, super_, num_super, 21u, 1u + in_super / 2u, lane) >> ((in_super & 1u) * 16u));
    k.d = d * vec2(bitfieldExtract(sc, 0, 8), bitfieldExtract(sc, 8, 8));
    return k;
}
float block_scale(Block k, uint half_) { return k.d[half_]; }
float block_offset(Block k, uint half_) { return -32.0 * k.d[half_]; }
uint code_bytes(Block k, uint j) {
    return nibble_bytes(k.q, j) | bits_above_bytes(k.high[(j & 3u) >> 1], j, 2u * (j & 1u), 2u);
}
vec4 codes(Block k, uint j) { return bytes_of(code_bytes(k, j)); }
