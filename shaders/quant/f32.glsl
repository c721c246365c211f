// F32: eight uvec4 of four floats.
#define SCALES_PER_BLOCK 0
#define HAS_OFFSET 0
#define CODE_SCALE(j) vec4(1.0)
#define CODE_CENTER 0.0
struct Block {
    uvec4 q[8];
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint at = (group * nb + block) * 8u * GROUP_ROWS + lane;
    for (uint j = 0u; j < 8u; j++) k.q[j] = QUANTS(at + j * GROUP_ROWS);
    return k;
}
vec4 codes(Block k, uint j) { return uintBitsToFloat(k.q[j]); }
float block_scale(Block k, uint half_) { return 1.0; }
float block_offset(Block k, uint half_) { return 0.0; }
