// Q4_K: superblocks of 8 blocks; w = (d * sc) * q - (dmin * m), six-bit sc and m per block.
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
    uint super_ = block / 8u, num_super = nb / 8u;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    vec2 d = unpackHalf2x16(scale_word(group, super_, num_super, 5u, 0u, lane));
    uint sm = scale_word(group, super_, num_super, 5u, 1u + (block & 7u) / 2u, lane) >> ((block & 1u) * 16u);
    k.dm = vec2(d.x * float(sm & 255u), -(d.y * float((sm >> 8) & 255u)));
    return k;
}
vec4 codes(Block k, uint j) { return nibbles_of(k.q, j); }
float block_scale(Block k, uint half_) { return k.dm.x; }
float block_offset(Block k, uint half_) { return k.dm.y; }
uint code_bytes(Block k, uint j) { return nibble_bytes(k.q, j); }
