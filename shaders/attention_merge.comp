#version 450
// The chunks of an attention that many groups worked on, put together in order. One invocation: four dimensions of one head.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "softmax_parts.glsl"

layout(local_size_x = 32) in;
layout(constant_id = 0) const uint HEAD_DIM = 64;
layout(constant_id = 1) const uint CHUNK = 256;
INPUT4(0, parts);                                         // (tokens, heads, max_chunks, head_dim + 4): sums, then (highest, total, 0, 0)
layout(std430, binding = 1) readonly buffer Positions { int positions[]; };   // (tokens); negative: slot unused
layout(std430, binding = 2) writeonly buffer Y { vec4 y[]; };                 // (tokens, heads, head_dim)

layout(push_constant) uniform Push { uint heads, window, max_chunks; };

void main() {
    const uint FOURS = HEAD_DIM / 4u;
    uint head = gl_WorkGroupID.y, token = gl_WorkGroupID.z, four = gl_GlobalInvocationID.x;
    int position_ = positions[token];
    if (position_ < 0 || four >= FOURS) return;
    uint position = uint(position_), first = window > 0u && position + 1u > window ? position + 1u - window : 0u;
    uint num_chunks = position / CHUNK - first / CHUNK + 1u;

    float highest = LOWEST, total = 0.0;
    vec4 sum = vec4(0.0);
    for (uint chunk = 0u; chunk < num_chunks; chunk++) {
        uint row = ((token * heads + head) * max_chunks + chunk) * (FOURS + 1u);
        vec4 of_part = LOAD4(parts, row + FOURS);
        vec2 factors = part_factors(highest, of_part.x);
        sum = put_together(sum, LOAD4(parts, row + four), factors);
        total = put_together(total, of_part.y, factors);
        highest = max(highest, of_part.x);
    }
    y[(token * heads + head) * FOURS + four] = sum / total;
}
