// Q4_0: 32 nibbles, one half scale: w = d * q - 8 d.
#define SCALES_PER_BLOCK 1
#define HAS_OFFSET 1
#define CODE_SCALE(j) NIBBLE_SCALE(j)
#define CODE_CENTER 8.0
struct Block {
    uvec4 q;
    float d;
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    k.d = paired_half(scale_word(group, block / 2u, (nb + 1u) / 2u, 1u, 0u, lane), block);
    return k;
}
vec4 codes(Block k, uint j) { return nibbles_of(k.q, j); }
float block_scale(Block k, uint half_) { return k.d; }
float block_offset(Block k, uint half_) { return -8.0 * k.d; }
uint code_bytes(Block k, uint j) { return nibble_bytes(k.q, j); }
