#version 450
// A row of projections, queries then keys then values, to where attention wants them: queries and keys normalized per head where asked for
// and rotated, keys and values stored at their pages of the cache. One group per head. Twin: vkbackend/ops/split_heads.py
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"

layout(constant_id = 1) const uint HEAD_DIM = 64;
layout(constant_id = 2) const uint N_ROT = 64;
layout(constant_id = 3) const bool HALVES = false;        // pairs are (i, i + n_rot/2) instead of (2i, 2i + 1)
layout(constant_id = 4) const bool HAS_NORMS = false;
layout(constant_id = 5) const uint PAGE_SIZE = 32;
layout(constant_id = 6) const uint CACHE = 1;             // type, see cache.glsl
INPUT1(0, x);                                             // (tokens, heads + 2 kv_heads, head_dim)
layout(std430, binding = 1) readonly buffer Positions { int positions[]; };   // (tokens); negative: slot unused
layout(std430, binding = 2) readonly buffer Sequences { int sequences[]; };   // (tokens)
layout(std430, binding = 3) readonly buffer PageTable { int page_table[]; };  // (sequences, pages_per_sequence)
INPUT1(4, turns);                                         // (2, n_rot / 2)
INPUT1(5, q_norm);                                        // (head_dim); x where there is none
INPUT1(6, k_norm);
layout(std430, binding = 7) writeonly buffer Q { float q[]; };                // (tokens, heads, head_dim), dense
layout(std430, binding = 8) writeonly buffer KCache { uint k_cache[]; };      // (pages, kv_heads, page_size, head_dim)
layout(std430, binding = 9) writeonly buffer VCache { uint v_cache[]; };

layout(push_constant) uniform Push { uint heads, kv_heads, pages_per_sequence, x_offset, x_stride; float eps; };

#include "head.glsl"
#include "cache.glsl"
const uint FOURS = HEAD_DIM / 4u, LANE_FOURS = (FOURS + LANES - 1u) / LANES;
shared float largest_of[CACHE == CACHE_Q8 ? FOURS : 1u];  // of each four

float block_unit(uint block) {
    float largest = 0.0;
    [[unroll]] for (uint j = 0u; j < 8u; j++) largest = max(largest, largest_of[block * 8u + j]);
    return q8_unit(largest);
}

void main() {
    uint head = gl_WorkGroupID.x, token = gl_WorkGroupID.y;
    int position_ = positions[token];
    if (position_ < 0) return;
    uint position = uint(position_), from = x_offset + token * x_stride + head * HEAD_DIM;
    bool is_query = head < heads, is_value = head >= heads + kv_heads;

    float factor = is_value ? 1.0 : norm_factor(from);
    uint page = uint(page_table[uint(sequences[token]) * pages_per_sequence + position / PAGE_SIZE]);
    uint kv_head = is_value ? head - heads - kv_heads : head - heads;
    uint cache_row_ = cache_row(page, kv_head, kv_heads, position % PAGE_SIZE), to = cache_row_ * HEAD_DIM;
    if (CACHE == CACHE_Q8 && !is_query) {
        vec4 mine[LANE_FOURS];
        [[unroll]] for (uint i = 0u; i < LANE_FOURS; i++) {
            uint four = i * LANES + LANE;
            if (four >= FOURS) continue;
            mine[i] = is_value ? GATHER(x, from, 4u * four + uvec4(0u, 1u, 2u, 3u)) : normed_and_turned(from, turn_of(four, position), factor, false);
            largest_of[four] = q8_largest(mine[i]);
        }
        group_barrier();
        [[unroll]] for (uint i = 0u; i < LANE_FOURS; i++) {
            uint four = i * LANES + LANE, block = four / 8u;
            if (four >= FOURS) continue;
            uint code = q8_rounded(mine[i], block_unit(block));
            if (is_value) v_cache[q8_codes(cache_row_) + four] = code;
            else k_cache[q8_codes(cache_row_) + four] = code;
            if (four % 16u != 0u) continue;               // the first four of two blocks stores the word of their scales
            uint scales = packHalf2x16(vec2(block_unit(block), 8u * block + 8u < FOURS ? block_unit(block + 1u) : 0.0));
            if (is_value) v_cache[q8_scales(cache_row_) + four / 16u] = scales;
            else k_cache[q8_scales(cache_row_) + four / 16u] = scales;
        }
        return;
    }
    for (uint four = LANE; four < HEAD_DIM / 4u; four += LANES) {
        if (is_value) {
            vec4 v = GATHER(x, from, 4u * four + uvec4(0u, 1u, 2u, 3u));
            STORE2(v_cache, to + 4u * four, v.xy)
            STORE2(v_cache, to + 4u * four + 2u, v.zw)
            continue;
        }
        vec4 v = normed_and_turned(from, turn_of(four, position), factor, is_query);
        if (is_query) {
            uint row = (token * heads + head) * HEAD_DIM + 4u * four;
            q[row] = v.x; q[row + 1u] = v.y; q[row + 2u] = v.z; q[row + 3u] = v.w;
        } else {
            STORE2(k_cache, to + 4u * four, v.xy)
            STORE2(k_cache, to + 4u * four + 2u, v.zw)
        }
    }
}
