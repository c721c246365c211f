// Q8_0: 32 bytes, stored with 128 added, one half scale: w = d * q - 128 d.
#define SCALES_PER_BLOCK 1
#define HAS_OFFSET 1
#define CODE_SCALE(j) BYTE_SCALE
#define CODE_CENTER 128.0
struct Block {
    uvec4 q[2];
    float d;
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint at = (group * nb + block) * 2u * GROUP_ROWS + lane;
    k.q[0] = QUANTS(at);
    k.q[1] = QUANTS(at + GROUP_ROWS);
    k.d = paired_half(scale_word(group, block / 2u, (nb + 1u) / 2u, 1u, 0u, lane), block);
    return k;
}
vec4 codes(Block k, uint j) { return bytes_of(k.q[j >> 2][j & 3u]); }
float block_scale(Block k, uint half_) { return k.d; }
float block_offset(Block k, uint half_) { return -128.0 * k.d; }
uint code_bytes(Block k, uint j) { return k.q[j >> 2][j & 3u]; }
