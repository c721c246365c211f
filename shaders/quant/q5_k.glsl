// Q5_K: like Q4_K with a fifth bit per element.
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
    uint super_ = block / 8u, num_super = nb / 8u;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    k.fifth = scale_word(group, super_, num_super, 13u, 5u + (block & 7u), lane);
    vec2 d = unpackHalf2x16(scale_word(group, super_, num_super, 13u, 0u, lane));
    uint sm = scale_word(group, super_, num_super, 13u, 1u + (block & 7u) / 2u, lane) >> ((block & 1u) * 16u);
    k.dm = vec2(d.x * float(sm & 255u), -(d.y * float((sm >> 8) & 255u)));
    return k;
}
float block_scale(Block k, uint half_) { return k.dm.x; }
float block_offset(Block k, uint half_) { return k.dm.y; }
uint code_bytes(Block k, uint j) { return nibble_bytes(k.q, j) | bits_above_bytes(k.fifth, j, j & 3u, 1u); }
vec4 codes(Block k, uint j) { return bytes_of(code_bytes(k, j)); }
