#version 450
// First of three passes over a row of logits: each invocation stores the maximum of a strip and the sum of
// its exponentials relative to it.
// Twin: vkbackend/ops/top_k.py
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(local_size_x = 64) in;
INPUT4(0, x);  // (rows, n), rows padded to fours
// (rows, num_strips): maximum, sum of exp(x - maximum)
layout(std430, binding = 1) writeonly buffer Strips { vec2 strips[]; };
layout(push_constant) uniform Push { uint n, stride4, num_strips; };

#include "top_k.glsl"

// Four logits; LOWEST past the end of the row.
vec4 four(uint row, uint at) {
    vec4 v = LOAD4(x, row * stride4 + at);
    uvec4 column = at * 4u + uvec4(0u, 1u, 2u, 3u);
    return mix(vec4(LOWEST), v, lessThan(column, uvec4(n)));
}

void main() {
    uint strip = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    uint first = first_four();
    float highest = LOWEST;
    for (uint i = 0u; i < STRIP_FOURS; i++) {
        uint at = first + i * WORKGROUP;
        if (at < stride4) {
            vec4 v = four(row, at);
            highest = max(highest, max(max(v.x, v.y), max(v.z, v.w)));
        }
    }
    float total = 0.0;
    for (uint i = 0u; i < STRIP_FOURS; i++) {
        uint at = first + i * WORKGROUP;
        if (at < stride4) total += dot(exp(four(row, at) - highest), vec4(1.0));
    }
    strips[row * num_strips + strip] = vec2(highest, total);
}
