// Q4_1: 32 nibbles, half scale and half minimum: w = d * q + m.
#define SCALES_PER_BLOCK 1
#define HAS_OFFSET 1
#define CODE_SCALE(j) NIBBLE_SCALE(j)
#define CODE_CENTER 8.0
struct Block {
    uvec4 q;
    vec2 dm;
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    k.dm = unpackHalf2x16(scale_word(group, block, nb, 1u, 0u, lane));
    return k;
}
vec4 codes(Block k, uint j) { return nibbles_of(k.q, j); }
float block_scale(Block k, uint half_) { return k.dm.x; }
float block_offset(Block k, uint half_) { return k.dm.y; }
uint code_bytes(Block k, uint j) { return nibble_bytes(k.q, j); }
