// Q5_0: 32 five-bit codes (four bits in the nibbles, the fifth in a word of its own), one half scale: w = d *
// q - 16 d.
#define SCALES_PER_BLOCK 1
#define HAS_OFFSET 1
#define CODE_SCALE(j) BYTE_SCALE
#define CODE_CENTER 16.0
struct Block {
    uvec4 q;
    uint fifth;
    float d;
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint pair = block / 2u, num_pairs = (nb + 1u) / 2u;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    k.fifth = scale_word(group, pair, num_pairs, 3u, block & 1u, lane);
    k.d = paired_half(scale_word(group, pair, num_pairs, 3u, 2u, lane), block);
    return k;
}
float block_scale(Block k, uint half_) { return k.d; }
float block_offset(Block k, uint half_) { return -16.0 * k.d; }
uint code_bytes(Block k, uint j) { return nibble_bytes(k.q, j) | bits_above_bytes(k.fifth, j, j & 3u, 1u); }
vec4 codes(Block k, uint j) { return bytes_of(code_bytes(k, j)); }
