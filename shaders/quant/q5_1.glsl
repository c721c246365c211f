// Q5_1: 32 five-bit codes, half scale and half minimum: w = d * q + m.
#define SCALES_PER_BLOCK 1
#define HAS_OFFSET 1
#define CODE_SCALE(j) BYTE_SCALE
#define CODE_CENTER 16.0
struct Block {
    uvec4 q;
    uint fifth;
    vec2 dm;
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    k.fifth = scale_word(group, block, nb, 2u, 0u, lane);
    k.dm = unpackHalf2x16(scale_word(group, block, nb, 2u, 1u, lane));
    return k;
}
float block_scale(Block k, uint half_) { return k.dm.x; }
float block_offset(Block k, uint half_) { return k.dm.y; }
uint code_bytes(Block k, uint j) { return nibble_bytes(k.q, j) | bits_above_bytes(k.fifth, j, j & 3u, 1u); }
vec4 codes(Block k, uint j) { return bytes_of(code_bytes(k, j)); }
