// Shared by f16.glsl and bf16.glsl: four uvec4 of eight elements of 16 bits, two to a word, the first one
// lower.
#define SCALES_PER_BLOCK 0
#define HAS_OFFSET 0
#define CODE_SCALE(j) vec4(1.0)
#define CODE_CENTER 0.0
struct Block {
    uvec4 q[4];
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint at = (group * nb + block) * 4u * GROUP_ROWS + lane;
    for (uint j = 0u; j < 4u; j++) k.q[j] = QUANTS(at + j * GROUP_ROWS);
    return k;
}
float block_scale(Block k, uint half_) { return 1.0; }
float block_offset(Block k, uint half_) { return 0.0; }
