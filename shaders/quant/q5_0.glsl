// Q5_0: 32 five-bit codes minus 16 (four bits in the nibbles, the fifth in a word of its own), one half scale.
#define SCALES_PER_BLOCK 1
#define HAS_BIAS 0
struct Block { uvec4 q; uint fifth; float d; };

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint pair = block / 2u, num_pairs = (nb + 1u) / 2u;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    k.fifth = scale_word(group, pair, num_pairs, 3u, block & 1u, lane);
    k.d = paired_half(scale_word(group, pair, num_pairs, 3u, 2u, lane), block);
    return k;
}
vec4 codes(Block k, uint j) { return unsigned_bytes(nibble_bytes(k.q, j) | fifth_bits(k.fifth, j)) - 16.0; }
float block_scale(Block k, uint half_) { return k.d; }
float block_bias(Block k) { return 0.0; }
