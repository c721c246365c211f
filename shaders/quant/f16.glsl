// F16: four uvec4 of eight halves.
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
    uint low = (j & 1u) * 2u;
    return vec4(unpackHalf2x16(k.q[j >> 1][low]), unpackHalf2x16(k.q[j >> 1][low + 1u]));
}
float block_scale(Block k, uint half_) { return 1.0; }
float block_bias(Block k, uint half_) { return 0.0; }
