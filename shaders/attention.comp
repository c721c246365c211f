#version 450
// Causal attention of one (token, head) over the paged cache, by one group. Twin: vkbackend/ops/attention.py
//
// Positions come in tiles of LANES, counted from position 0: for the scores one lane is one position, for the weighted sum of
// values one lane is eight neighbouring dimensions. The softmax is kept running (Milakov & Gimelshein 2018). The order of every
// sum depends only on positions, never on the batch.
#extension GL_GOOGLE_include_directive : require
#define GROUP
#include "common.glsl"

layout(constant_id = 1) const uint HEAD_DIM = 64;
layout(constant_id = 2) const uint PAGE_SIZE = 32;
layout(constant_id = 3) const bool HALF = true;           // the cache holds half floats, otherwise floats
INPUT4(0, q);                                             // (tokens, heads, head_dim)
INPUT4U(1, k_cache);                                      // (pages, page_size, kv_heads, head_dim)
INPUT4U(2, v_cache);
layout(std430, binding = 3) readonly buffer Positions { int positions[]; };   // (tokens); negative: slot unused
layout(std430, binding = 4) readonly buffer Sequences { int sequences[]; };   // (tokens)
layout(std430, binding = 5) readonly buffer PageTable { int page_table[]; };  // (sequences, pages_per_sequence)
layout(std430, binding = 6) writeonly buffer Y { vec4 y[]; };                 // (tokens, heads, head_dim), dense

layout(push_constant) uniform Push {
    uint heads, kv_heads, pages_per_sequence, q_offset, q_stride;  // q's in fours
    uint window;                                                   // 0: all earlier positions
    float scale, softcap;                                          // softcap 0: none
};

const uint EIGHTS = HEAD_DIM / 8u;
const uint CHUNKS = (EIGHTS + LANES - 1u) / LANES;        // eights per lane in the weighted sum
const float LOWEST = -3.0e38;

// Eight neighbouring elements of a cache.
#define LOAD8(NAME, i, a, b)                                                                          \
    if (HALF) {                                                                                       \
        uvec4 raw = LOAD4(NAME, i);                                                                   \
        a = vec4(unpackHalf2x16(raw.x), unpackHalf2x16(raw.y));                                       \
        b = vec4(unpackHalf2x16(raw.z), unpackHalf2x16(raw.w));                                       \
    } else {                                                                                          \
        a = uintBitsToFloat(LOAD4(NAME, 2u * (i)));                                                   \
        b = uintBitsToFloat(LOAD4(NAME, 2u * (i) + 1u));                                              \
    }

void main() {
    uint head = gl_WorkGroupID.x, token = gl_WorkGroupID.y;
    int position_ = positions[token];
    if (position_ < 0) return;
    uint position = uint(position_), kv_head = head / (heads / kv_heads);
    uint table = uint(sequences[token]) * pages_per_sequence;
    uint first = window > 0u && position + 1u > window ? position + 1u - window : 0u;
    uint q_row = q_offset + token * q_stride + head * (HEAD_DIM / 4u);

    float highest = LOWEST, total = 0.0;
    vec4 low[CHUNKS], high[CHUNKS];
    for (uint c = 0u; c < CHUNKS; c++) low[c] = high[c] = vec4(0.0);

    for (uint tile = first / LANES; tile <= position / LANES; tile++) {
        // Scores: one lane, one position.
        uint at = tile * LANES + LANE;
        bool seen = at >= first && at <= position;
        uint clamped = min(at, position);
        uint slot = uint(page_table[table + clamped / PAGE_SIZE]) * PAGE_SIZE + clamped % PAGE_SIZE;
        uint row = (slot * kv_heads + kv_head) * EIGHTS;
        float score = 0.0;
        for (uint e = 0u; e < EIGHTS; e++) {
            vec4 a, b;
            LOAD8(k_cache, row + e, a, b)
            score += dot(LOAD4(q, q_row + 2u * e), a) + dot(LOAD4(q, q_row + 2u * e + 1u), b);
        }
        score *= scale;
        if (softcap > 0.0) score = softcap * tanh(score / softcap);
        if (!seen) score = LOWEST;

        // Running softmax.
        float now = max(highest, group_max(score));
        float shrink = exp(highest - now);
        float weight = seen ? exp(score - now) : 0.0;
        total = total * shrink + group_add(weight);
        highest = now;
        for (uint c = 0u; c < CHUNKS; c++) { low[c] *= shrink; high[c] *= shrink; }

        // Weighted sum: one lane, eight dimensions.
        uint begin = max(first, tile * LANES) - tile * LANES, end = min(position - tile * LANES, LANES - 1u);
        for (uint lane = begin; lane <= end; lane++) {
            float w = group_broadcast(weight, lane);
            uint other = group_broadcast_uint(row, lane);
            for (uint c = 0u; c < CHUNKS; c++) {
                uint e = c * LANES + LANE;
                vec4 a, b;
                LOAD8(v_cache, other + min(e, EIGHTS - 1u), a, b)
                low[c] += w * a;
                high[c] += w * b;
            }
        }
    }

    uint out_row = (token * heads + head) * (HEAD_DIM / 4u);
    for (uint c = 0u; c < CHUNKS; c++) {
        uint e = c * LANES + LANE;
        if (e < EIGHTS) {
            y[out_row + 2u * e] = low[c] / total;
            y[out_row + 2u * e + 1u] = high[c] / total;
        }
    }
}
