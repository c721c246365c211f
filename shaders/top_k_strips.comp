#version 450
// First of three passes over a row of logits: each invocation takes a strip of 64 (sixteen fours, a workgroup's width apart) and
// leaves its maximum and the sum of exponentials below it. Twin: vkbackend/ops/top_k.py
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(local_size_x = 64) in;
INPUT4(0, x);                                                       // (rows, n), n a multiple of 4
layout(std430, binding = 1) writeonly buffer Strips { vec2 strips[]; };  // (rows, num_strips): maximum, sum of exp(x - maximum)
layout(push_constant) uniform Push { uint n4, num_strips; };

void main() {
    uint strip = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    uint first = gl_WorkGroupID.x * 1024u + gl_LocalInvocationID.x;
    float highest = -3.0e38;
    for (uint i = 0u; i < 16u; i++) {
        uint at = first + i * 64u;
        if (at < n4) {
            vec4 v = LOAD4(x, row * n4 + at);
            highest = max(highest, max(max(v.x, v.y), max(v.z, v.w)));
        }
    }
    float total = 0.0;
    for (uint i = 0u; i < 16u; i++) {
        uint at = first + i * 64u;
        if (at < n4) total += dot(exp(LOAD4(x, row * n4 + at) - highest), vec4(1.0));
    }
    strips[row * num_strips + strip] = vec2(highest, total);
}
