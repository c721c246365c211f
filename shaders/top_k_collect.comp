#version 450
// Third pass: appends every logit that reaches the row's threshold. The set is the same on every run, but its
// order is not: the host sorts.
// Twin: vkbackend/ops/top_k.py
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint CAPACITY = 1024;
INPUT4(0, x);                                                           // (rows, n)
layout(std430, binding = 1) readonly buffer Strips { vec2 strips[]; };  // (rows, num_strips)
layout(std430, binding = 2) readonly buffer Stats { float stats[]; };   // (rows, 4)
layout(std430, binding = 3) buffer Counts { uint counts[]; };      // (rows): candidates; may exceed CAPACITY
layout(std430, binding = 4) writeonly buffer Ids { uint ids[]; };  // (rows, CAPACITY)
layout(std430, binding = 5) writeonly buffer Values { float values[]; };  // (rows, CAPACITY)
layout(push_constant) uniform Push { uint n, stride4, num_strips; };

#include "top_k.glsl"

void main() {
    uint strip = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    float threshold = stats[row * STATS + STAT_THRESHOLD];
    if (strips[row * num_strips + strip].x < threshold) return;
    uint first = first_four();
    for (uint i = 0u; i < STRIP_FOURS; i++) {
        uint at = first + i * WORKGROUP;
        if (at >= stride4) break;
        vec4 v = LOAD4(x, row * stride4 + at);
        for (uint c = 0u; c < 4u; c++) {
            if (at * 4u + c >= n || v[c] < threshold) continue;
            uint slot = atomicAdd(counts[row], 1u);
            if (slot < CAPACITY) {
                ids[row * CAPACITY + slot] = at * 4u + c;
                values[row * CAPACITY + slot] = v[c];
            }
        }
    }
}
