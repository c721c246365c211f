// BF16: four uvec4 of eight upper halves of floats.
#define SCALES_PER_BLOCK 0
#define HAS_BIAS 0
#define CODE_SCALE(j) vec4(1.0)
#define CODE_CENTER 0.0
struct Block { uvec4 q[4]; };

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint at = (group * nb + block) * 4u * GROUP_ROWS + lane;
    for (uint j = 0u; j < 4u; j++) k.q[j] = QUANTS(at + j * GROUP_ROWS);
    return k;
}
vec4 codes(Block k, uint j) {
    uint low = (j & 1u) * 2u, first = k.q[j >> 1][low], second = k.q[j >> 1][low + 1u];
    return uintBitsToFloat(uvec4(first << 16, first & 0xffff0000u, second << 16, second & 0xffff0000u));
}
float block_scale(Block k, uint half_) { return 1.0; }
float block_bias(Block k, uint half_) { return 0.0; }
