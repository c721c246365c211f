#version 450
// Second pass: one group per row combines the strips to the log-sum-exp, and finds the K-th largest strip maximum: at least K
// logits are not below it. Binary search on the floats' order-preserving integer image. Twin: vkbackend/ops/top_k.py
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
layout(std430, binding = 0) readonly buffer Strips { vec2 strips[]; };       // (rows, num_strips)
layout(std430, binding = 1) writeonly buffer Stats { float stats[]; };       // (rows, 4): log-sum-exp, threshold, 0, 0
layout(std430, binding = 2) writeonly buffer Counts { uint counts[]; };      // (rows): set to 0 for the third pass
layout(push_constant) uniform Push { uint num_strips, k; };

uint ordered(float v) {
    uint bits = floatBitsToUint(v);
    return (bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u;
}
float from_ordered(uint key) { return uintBitsToFloat((key & 0x80000000u) != 0u ? key & 0x7fffffffu : ~key); }

void main() {
    uint row = gl_WorkGroupID.x, from = row * num_strips;
    float highest = -3.0e38;
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
        for (uint i = LANE; i < num_strips; i += LANES) reached += ordered(strips[from + i].x) >= candidate ? 1u : 0u;
        if (group_add_uint(reached) >= k) threshold = candidate;
    }
    if (LANE == 0u) {
        stats[row * 4u] = highest + log(total);
        stats[row * 4u + 1u] = threshold == 0u ? -3.4e38 : from_ordered(threshold);
        stats[row * 4u + 2u] = highest;
        stats[row * 4u + 3u] = 0.0;
        counts[row] = 0u;
    }
}
