#version 450
// Causal attention over the paged cache, which already holds the step's keys and values. With limits, a token
// also sees what follows it, up to its limit.
// Twin: vkbackend/ops/attention.py
// How a group works: attention_core.glsl.
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"

layout(constant_id = 9) const bool HAS_LIMITS = false;

INPUT4(0, q);         // (tokens, heads, head_dim)
INPUT4U(1, k_cache);  // (pages, kv_heads, page_size, head_dim)
INPUT4U(2, v_cache);
layout(std430, binding = 3) readonly buffer Positions { int positions[]; };  // (tokens); negative: unused
layout(std430, binding = 4) readonly buffer Sequences { int sequences[]; };  // (tokens)
// (sequences, pages_per_sequence)
layout(std430, binding = 5) readonly buffer PageTable { int page_table[]; };
// (tokens), at least positions; positions where HAS_LIMITS is false
layout(std430, binding = 6) readonly buffer Limits { int limits[]; };
// (heads); bound to q if there are none
layout(std430, binding = 7) readonly buffer Sinks { float sinks[]; };
layout(std430, binding = 8) writeonly buffer Y { vec4 y[]; };  // (tokens, heads, head_dim), dense
// If SPLIT: (tokens, heads, max_chunks, head_dim + 4), and (tokens, heads / HEADS), all 0 before and after
// each dispatch.
layout(std430, binding = 9) coherent buffer Parts { vec4 parts[]; };
layout(std430, binding = 10) coherent buffer Done { uint num_done[]; };

layout(push_constant) uniform Push {
    uint heads, kv_heads, pages_per_sequence;
    uint x_offset, x_stride;  // of q, in fours
    uint window;              // 0: all earlier positions
    float scale, softcap;
    uint max_chunks;  // of a head in `parts`
    uint first_token;
};

#include "attention_core.glsl"

void load_queries_and_current_key() {
    uint q_row = x_offset + token * x_stride;
    UNROLL (uint i = 0u; i < LANE_FOURS; i++) {
        uint four = min(i * LANES + LANE, FOURS - 1u);
        UNROLL (uint h = 0u; h < HEADS; h++)
            lane_fours[h * LANE_FOURS + i] = LOAD4(q, q_row + (first_head + h) * FOURS + four);
        vec4 a, b;
        load_key(current_row, four / 2u, a, b);
        lane_fours[CURRENT_KEY * LANE_FOURS + i] = four % 2u == 0u ? a : b;
    }
}

void load_current_value(uint c, out vec4 a, out vec4 b) { load_value(current_row, eighth[c], a, b); }

void main() {
    uint slot = first_token + gl_WorkGroupID.y;
    if (!find_work(HAS_LIMITS ? limits[slot] : positions[slot])) return;
    load_queries_and_current_key();
    share_queries();
    attend();
}
