// Q4_0: 32 nibbles minus 8, one half scale.
#define SCALES_PER_BLOCK 1
#define HAS_BIAS 0
struct Block { uvec4 q; float d; };

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    k.d = paired_half(scale_word(group, block / 2u, (nb + 1u) / 2u, 1u, 0u, lane), block);
    return k;
}
vec4 codes(Block k, uint j) { return unsigned_bytes(nibble_bytes(k.q, j)) - 8.0; }
float block_scale(Block k, uint half_) { return k.d; }
float block_bias(Block k) { return 0.0; }
