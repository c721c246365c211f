#version 450
// Second pass: one group per row combines the strips into the log-sum-exp, and finds the k-th largest strip
// maximum, which at least k logits reach. Binary search on an integer image of floats that preserves their
// order.
// Twin: vkbackend/ops/top_k.py
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
layout(std430, binding = 0) readonly buffer Strips { vec2 strips[]; };  // (rows, num_strips)
layout(std430, binding = 1) writeonly buffer Stats { float stats[]; };  // (rows, STATS)
// (rows): set to 0 for the third pass
layout(std430, binding = 2) writeonly buffer Counts { uint counts[]; };
layout(push_constant) uniform Push { uint num_strips, k; };

#include "top_k.glsl"

uint ordered(float v) {
    uint bits = floatBitsToUint(v);
    return (bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u;
}
float from_ordered(uint key) { return uintBitsToFloat((key & 0x80000000u) != 0u ? key & 0x7fffffffu : ~key); }

void main() {
    uint row = gl_WorkGroupID.x, from = row * num_strips;
    float highest = LOWEST;
    for (uint i = LANE; i < num_strips; i += LANES) highest = max(highest, strips[from + i].x);
    highest = group_max(highest);
    float total = 0.0;
    for (uint i = LANE; i < num_strips; i += LANES) {
        vec2 strip = strips[from + i];
        total += strip.y * exp(strip.x - highest);
    }
    total = group_add(total);

    uint threshold = 0u;  // the largest key that at least k strips reach
    for (uint bit = 0x80000000u; bit != 0u; bit >>= 1) {
        uint candidate = threshold | bit, reached = 0u;
        for (uint i = LANE; i < num_strips; i += LANES)
            reached += ordered(strips[from + i].x) >= candidate ? 1u : 0u;
        if (group_add_uint(reached) >= k) threshold = candidate;
    }
    if (LANE == 0u) {
        stats[row * STATS + STAT_LOG_SUM_EXP] = highest + log(total);
        stats[row * STATS + STAT_THRESHOLD] = threshold == 0u ? UNBOUNDED : from_ordered(threshold);
        stats[row * STATS + STAT_MAXIMUM] = highest;
        stats[row * STATS + STAT_UNUSED] = 0.0;
        counts[row] = 0u;
    }
}
