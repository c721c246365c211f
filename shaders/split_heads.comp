#version 450
// Splits rows of projections (queries, then keys, then values) into heads: normalizes queries and keys per
// head (HAS_NORMS), rotates them, and stores keys and values in their pages of the cache. One group per head.
// Twin: vkbackend/ops/split_heads.py
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"

layout(constant_id = 1) const uint HEAD_DIM = 64;
layout(constant_id = 2) const uint N_ROT = 64;
layout(constant_id = 3) const bool HALVES = false;  // pairs are (i, i + n_rot/2) instead of (2i, 2i + 1)
layout(constant_id = 4) const bool HAS_NORMS = false;
layout(constant_id = 5) const uint PAGE_SIZE = 32;
layout(constant_id = 6) const uint CACHE = 1;  // type, see cache.glsl
layout(constant_id = 7) const bool HAS_ROPE_POSITIONS = false;
layout(constant_id = 8) const bool HAS_AXES = false;   // with rope positions only
layout(constant_id = 9) const bool NORM_LAST = false;  // after the rotation

INPUT1(0, x);  // (tokens, heads + 2 kv_heads, head_dim)
layout(std430, binding = 1) readonly buffer Positions { int positions[]; };  // (tokens); negative: unused
layout(std430, binding = 2) readonly buffer Sequences { int sequences[]; };  // (tokens)
// (sequences, pages_per_sequence)
layout(std430, binding = 3) readonly buffer PageTable { int page_table[]; };
INPUT1(4, turns);   // (2, n_rot / 2), and a factor
INPUT1(5, q_norm);  // (head_dim); bound to x if there is none
INPUT1(6, k_norm);
// (tokens, 4): what a token turns by on each axis, in place of its position; bound to positions if there are
// none
layout(std430, binding = 7) readonly buffer RopePositions { int rope_positions[]; };
layout(std430, binding = 8) readonly buffer Axes { int axes[]; };  // (n_rot / 2): axis of each pair
layout(std430, binding = 9) writeonly buffer Q { float q[]; };     // (tokens, heads, head_dim), dense
// (pages, kv_heads, page_size, head_dim)
layout(std430, binding = 10) writeonly buffer KCache { uint k_cache[]; };
layout(std430, binding = 11) writeonly buffer VCache { uint v_cache[]; };

layout(push_constant) uniform Push {
    uint heads, kv_heads, pages_per_sequence, x_offset, x_stride;
    float eps;
};

#define AXIS(pair) (HAS_AXES ? uint(axes[pair]) : 0u)
#define PAIR_POSITION(pair) \
    (HAS_ROPE_POSITIONS ? uint(rope_positions[4u * gl_WorkGroupID.y + AXIS(pair)]) : position)
#include "head.glsl"
#include "cache.glsl"
const uint BLOCK_FOURS = Q8_BLOCK / 4u;
const uint FOURS = HEAD_DIM / 4u, LANE_FOURS = (FOURS + LANES - 1u) / LANES;
shared float magnitudes[CACHE == CACHE_Q8 ? FOURS : 1u];  // largest of each four

float block_unit(uint block) {
    float largest = 0.0;
    UNROLL (uint j = 0u; j < BLOCK_FOURS; j++) largest = max(largest, magnitudes[block * BLOCK_FOURS + j]);
    return q8_unit(largest);
}

// This group's head and where to store it.
uint head, token, position, kv_head, row;  // row: of the cache
bool is_query, is_value;

vec4 element_four(uint from, uint four, float factor) {
    if (is_value) return GATHER(x, from, 4u * four + uvec4(0u, 1u, 2u, 3u));
    return normed_and_turned(from, turn_of(four, position), factor, is_query);
}

void store_bytes(uint from, float factor) {
    vec4 lane_fours[LANE_FOURS];
    UNROLL (uint i = 0u; i < LANE_FOURS; i++) {
        uint four = i * LANES + LANE;
        if (four >= FOURS) continue;
        lane_fours[i] = element_four(from, four, factor);
        magnitudes[four] = q8_largest(lane_fours[i]);
    }
    group_barrier();
    UNROLL (uint i = 0u; i < LANE_FOURS; i++) {
        uint four = i * LANES + LANE, block = four / BLOCK_FOURS;
        if (four >= FOURS) continue;
        uint code = q8_rounded(lane_fours[i], block_unit(block));
        if (is_value)
            v_cache[q8_codes(row) + four] = code;
        else
            k_cache[q8_codes(row) + four] = code;
        if (four % (2u * BLOCK_FOURS) != 0u) continue;  // the first four of two blocks stores their scales
        bool has_two = (block + 1u) * BLOCK_FOURS < FOURS;
        uint scales = packHalf2x16(vec2(block_unit(block), has_two ? block_unit(block + 1u) : 0.0));
        if (is_value)
            v_cache[q8_scales(row) + block / 2u] = scales;
        else
            k_cache[q8_scales(row) + block / 2u] = scales;
    }
}

void store_floats(uint from, float factor) {
    for (uint four = LANE; four < FOURS; four += LANES) {
        uint to = row * HEAD_DIM + 4u * four;
        if (is_value) {  // in a branch of its own, so that it stores the same bits as decode_attention
            vec4 v = GATHER(x, from, 4u * four + uvec4(0u, 1u, 2u, 3u));
            STORE2(v_cache, to, v.xy)
            STORE2(v_cache, to + 2u, v.zw)
            continue;
        }
        vec4 v = normed_and_turned(from, turn_of(four, position), factor, is_query);
        if (is_query) {
            uint q_start = (token * heads + head) * HEAD_DIM + 4u * four;
            UNROLL (uint e = 0u; e < 4u; e++) q[q_start + e] = v[e];
        } else {
            STORE2(k_cache, to, v.xy)
            STORE2(k_cache, to + 2u, v.zw)
        }
    }
}

void main() {
    head = gl_WorkGroupID.x;
    token = gl_WorkGroupID.y;
    if (positions[token] < 0) return;
    position = uint(positions[token]);
    is_query = head < heads;
    is_value = head >= heads + kv_heads;
    kv_head = is_value ? head - heads - kv_heads : head - heads;
    uint page = uint(page_table[uint(sequences[token]) * pages_per_sequence + position / PAGE_SIZE]);
    row = cache_row(page, kv_head, kv_heads, position % PAGE_SIZE);

    uint from = x_offset + token * x_stride + head * HEAD_DIM;
    float factor = is_value ? 1.0 : norm_factor(from);
    if (CACHE == CACHE_Q8 && !is_query)
        store_bytes(from, factor);
    else
        store_floats(from, factor);
}
