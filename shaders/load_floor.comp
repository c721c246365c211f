#version 450
// Loads a packed matrix as matmul.comp does for one token, and only XORs it: a lower bound for the product's
// time. For `vkbackend bench --kernels`: vkbackend/bench/kernels.py
#extension GL_GOOGLE_include_directive : require
#include "unroll.glsl"
#ifdef SUBGROUP
#extension GL_KHR_shader_subgroup_basic : require
#endif

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint LANES = 8;
#define FOLD_LOADS
#define QUANTS_BINDING 0
#define SCALES_BINDING 1
#include "quant/format.glsl"
layout(std430, binding = 2) writeonly buffer Y { uint y[]; };  // (rows)
layout(push_constant) uniform Push { uint num_rows, num_blocks; };

void main() {
#ifdef SUBGROUP
    uint lane = gl_SubgroupInvocationID,
         row0 = (gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID) * LANES * ROWS + lane;
#else
    uint lane = gl_LocalInvocationID.x, row0 = gl_WorkGroupID.x * LANES * ROWS + lane;
#endif
    uint last_group = (num_rows - 1u) / GROUP_ROWS;
    uint group[ROWS], slot[ROWS];
    UNROLL (uint r = 0u; r < ROWS; r++) {
        group[r] = min((row0 + r * LANES) / GROUP_ROWS, last_group);
        slot[r] = (row0 + r * LANES) % GROUP_ROWS;
    }
    for (uint b = 0u; b < num_blocks; b++)
        UNROLL (uint r = 0u; r < ROWS; r++) load_block(group[r], b, slot[r], num_blocks);
    if (row0 < num_rows) y[row0] = loaded;
}
