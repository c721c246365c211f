// What the kernels share: how inputs are read, and a group of LANES invocations that work on one row together.
//
// TEXEL:    inputs are uniform texel buffers (llvmpipe gathers those 12 times faster than storage buffers)
// SUBGROUP: the group is one subgroup (required size LANES); otherwise it is the workgroup, reduced in shared memory.
// In both, one group is one workgroup, so control flow around group_* calls must be uniform in the workgroup.
#extension GL_EXT_control_flow_attributes : require

// LOAD_WORD: of an input of fours, one component.
#ifdef TEXEL
#define INPUT1(BINDING, NAME) layout(binding = BINDING) uniform samplerBuffer NAME
#define LOAD1(NAME, i) texelFetch(NAME, int(i)).x
#define INPUT4(BINDING, NAME) layout(binding = BINDING) uniform samplerBuffer NAME
#define INPUT4U(BINDING, NAME) layout(binding = BINDING) uniform usamplerBuffer NAME
#define LOAD4(NAME, i) texelFetch(NAME, int(i))
#define LOAD_WORD(NAME, i) texelFetch(NAME, int((i) / 4u))[(i) % 4u]
#else
#define INPUT1(BINDING, NAME) layout(std430, binding = BINDING) readonly buffer NAME##_ { float NAME[]; }
#define LOAD1(NAME, i) NAME[i]
#define INPUT4(BINDING, NAME) layout(std430, binding = BINDING) readonly buffer NAME##_ { vec4 NAME[]; }
#define INPUT4U(BINDING, NAME) layout(std430, binding = BINDING) readonly buffer NAME##_ { uvec4 NAME[]; }
#define LOAD4(NAME, i) NAME[i]
#define LOAD_WORD(NAME, i) NAME[(i) / 4u][(i) % 4u]
#endif

#ifdef GROUP
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
#define GROUP_TREE(COMBINE)                                                                   \
    barrier();                                                                                \
    group_scratch[LANE] = v;                                                                  \
    barrier();                                                                                \
    for (uint half_ = LANES / 2u; half_ > 0u; half_ /= 2u) {                                  \
        if (LANE < half_) { float a = group_scratch[LANE], b = group_scratch[LANE + half_]; group_scratch[LANE] = COMBINE; } \
        barrier();                                                                            \
    }                                                                                         \
    return group_scratch[0];
float group_add(float v) { GROUP_TREE(a + b) }
float group_max(float v) { GROUP_TREE(max(a, b)) }
uint group_add_uint(uint n) { return uint(group_add(float(n)) + 0.5); }  // exact below 2^24
float group_broadcast(float v, uint lane) {
    barrier();
    group_scratch[LANE] = v;
    barrier();
    return group_scratch[lane];
}
// Integers have an array of their own: as floats the small ones are denormal, which a device may flush to zero.
shared uint group_words[LANES];
uint group_broadcast_uint(uint v, uint lane) {
    barrier();
    group_words[LANE] = v;
    barrier();
    return group_words[lane];
}
#endif
#endif
