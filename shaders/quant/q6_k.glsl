// Q6_K: superblocks of 8 blocks; w = (d * sc) * (q - 32), six-bit q (four low bits in the nibbles, two high bits apart),
// signed eight-bit sc per 16 elements.
#define SCALES_PER_BLOCK 2
#define HAS_BIAS 0
struct Block { uvec4 q; uint high[2]; vec2 d; };

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint super_ = block / 8u, num_super = nb / 8u, in_super = block & 7u;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    k.high[0] = scale_word(group, super_, num_super, 21u, 5u + 2u * in_super, lane);
    k.high[1] = scale_word(group, super_, num_super, 21u, 6u + 2u * in_super, lane);
    float d = unpackHalf2x16(scale_word(group, super_, num_super, 21u, 0u, lane)).x;
    int sc = int(scale_word(group, super_, num_super, 21u, 1u + in_super / 2u, lane) >> ((in_super & 1u) * 16u));
    k.d = d * vec2(bitfieldExtract(sc, 0, 8), bitfieldExtract(sc, 8, 8));
    return k;
}
// Two high bits of four neighbouring elements, one pair in each byte, at bit 4.
uint high_pairs(uint bits, uint j) {
    uint four = (bits >> (8u * (j & 3u))) & 255u;
    return ((four & 3u) | ((four & 12u) << 6) | ((four & 48u) << 12) | ((four & 192u) << 18)) << 4;
}
vec4 codes(Block k, uint j) { return unsigned_bytes(nibble_bytes(k.q, j) | high_pairs(k.high[j >> 2], j)) - 32.0; }
float block_scale(Block k, uint half_) { return k.d[half_]; }
float block_bias(Block k) { return 0.0; }
