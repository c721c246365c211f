// Q2_K: superblocks of 8 blocks; w = (d * sc) * q - (dmin * m), two-bit q, four-bit sc and m per 16 elements.
#define SCALES_PER_BLOCK 2
#define HAS_OFFSET 1
#define CODE_SCALE(j) PAIR_SCALE(j)
#define CODE_CENTER 2.0
struct Block {
    uvec2 q;
    vec2 d, m;
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint super_ = block / 8u, num_super = nb / 8u;
    k.q = half_vector(QUANTS((group * (nb / 2u) + block / 2u) * GROUP_ROWS + lane), block);
    vec2 d = unpackHalf2x16(scale_word(group, super_, num_super, 5u, 0u, lane));
    int sm =
        int(scale_word(group, super_, num_super, 5u, 1u + (block & 7u) / 2u, lane) >> ((block & 1u) * 16u));
    k.d = d.x * vec2(sm & 15, (sm >> 8) & 15);
    k.m = -d.y * vec2((sm >> 4) & 15, (sm >> 12) & 15);
    return k;
}
vec4 codes(Block k, uint j) { return pairs_of(k.q, j); }
float block_scale(Block k, uint half_) { return k.d[half_]; }
float block_offset(Block k, uint half_) { return k.m[half_]; }
uint code_bytes(Block k, uint j) { return pair_bytes(k.q, j); }
