// A group: LANES invocations that work on one row together.
//
// SUBGROUP: the group is one subgroup (required size LANES); otherwise it is the workgroup, reduced in shared
// memory. In both, one group is one workgroup, so control flow around group_* calls must be uniform in the
// workgroup.
#include "common.glsl"

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint LANES = 32;

#ifdef SUBGROUP
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
#define LANE gl_SubgroupInvocationID
void group_barrier() { subgroupBarrier(); }
float group_add(float v) { return subgroupAdd(v); }
float group_max(float v) { return subgroupMax(v); }
uint group_add_uint(uint v) { return subgroupAdd(v); }
float group_broadcast(float v, uint lane) { return subgroupShuffle(v, lane); }
uint group_broadcast_uint(uint v, uint lane) { return subgroupShuffle(v, lane); }
#else
#define LANE gl_LocalInvocationID.x
void group_barrier() { barrier(); }
shared float group_scratch[LANES];
#define GROUP_TREE(COMBINE)                                                 \
    barrier();                                                              \
    group_scratch[LANE] = v;                                                \
    barrier();                                                              \
    for (uint width = LANES / 2u; width > 0u; width /= 2u) {                \
        if (LANE < width) {                                                 \
            float a = group_scratch[LANE], b = group_scratch[LANE + width]; \
            group_scratch[LANE] = COMBINE;                                  \
        }                                                                   \
        barrier();                                                          \
    }                                                                       \
    return group_scratch[0];
// clang-format off: it takes the functions with GROUP_TREE for one
float group_add(float v) { GROUP_TREE(a + b) }
float group_max(float v) { GROUP_TREE(max(a, b)) }
uint group_add_uint(uint n) { return uint(group_add(float(n)) + 0.5); }  // exact below 2^24
// clang-format on
float group_broadcast(float v, uint lane) {
    barrier();
    group_scratch[LANE] = v;
    barrier();
    return group_scratch[lane];
}
// Integers have an array of their own: as floats the small ones are denormal, which a device may flush to
// zero.
shared uint group_words[LANES];
uint group_broadcast_uint(uint v, uint lane) {
    barrier();
    group_words[LANE] = v;
    barrier();
    return group_words[lane];
}
#endif

vec4 group_broadcast(vec4 v, uint lane) {
    return vec4(group_broadcast(v.x, lane), group_broadcast(v.y, lane), group_broadcast(v.z, lane),
                group_broadcast(v.w, lane));
}

// Device-scope release and acquire: publishes this group's writes to other groups, and theirs to all lanes
// here.
void group_memory_barrier() {
    memoryBarrierBuffer();
    group_barrier();
    memoryBarrierBuffer();
}
