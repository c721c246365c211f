#version 450
// Causal attention for steps in which no token needs the key of another: reads each token's queries, key and
// value from the projections' output, normalizes and rotates queries and key, stores key and value in the
// cache, and attends.
// Twin: vkbackend/ops/decode_attention.py
// How a group works: attention_core.glsl.
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"

layout(constant_id = 9) const uint N_ROT = 64;
layout(constant_id = 10) const bool HALVES = false;  // pairs are (i, i + n_rot/2) instead of (2i, 2i + 1)
layout(constant_id = 11) const bool HAS_NORMS = false;
layout(constant_id = 12) const bool NORM_LAST = false;  // after the rotation
INPUT1(0, x);                                           // (tokens, heads + 2 kv_heads, head_dim)
layout(std430, binding = 1) readonly buffer Positions { int positions[]; };  // (tokens); negative: unused
layout(std430, binding = 2) readonly buffer Sequences { int sequences[]; };  // (tokens)
// (sequences, pages_per_sequence)
layout(std430, binding = 3) readonly buffer PageTable { int page_table[]; };
INPUT1(4, turns);   // (2, n_rot / 2), and a factor
INPUT1(5, q_norm);  // (head_dim); bound to x if there is none
INPUT1(6, k_norm);
INPUT4U(7, k_cache);  // (pages, kv_heads, page_size, head_dim): earlier positions
INPUT4U(8, v_cache);
// (heads); bound to x if there are none
layout(std430, binding = 9) readonly buffer Sinks { float sinks[]; };
layout(std430, binding = 10) writeonly buffer Y { vec4 y[]; };  // (tokens, heads, head_dim), dense
// The current position, in the same memory.
layout(std430, binding = 11) writeonly buffer KCache { uint k_stored[]; };
layout(std430, binding = 12) writeonly buffer VCache { uint v_stored[]; };
// If SPLIT: (tokens, heads, max_chunks, head_dim + 4), and (tokens, heads / HEADS), all 0 before and after
// each dispatch.
layout(std430, binding = 13) coherent buffer Parts { vec4 parts[]; };
layout(std430, binding = 14) coherent buffer Done { uint num_done[]; };

layout(push_constant) uniform Push {
    uint heads, kv_heads, pages_per_sequence;
    uint x_offset, x_stride;  // in elements
    uint window;              // 0: all earlier positions
    float scale, softcap;
    uint max_chunks;  // of a head in `parts`
    uint first_token;
    float eps;  // of the norms
};

#include "attention_core.glsl"
#include "head.glsl"

uint key_code[CACHE == CACHE_Q8 ? LANE_FOURS : 1u];      // of the current key
uvec2 value_code[CACHE == CACHE_Q8 ? LANE_EIGHTS : 1u];  // of the current value

// Largest magnitude in each four of the current key, then in each eight of its value: a q8 block's unit is
// derived from them.
shared float magnitudes[CACHE == CACHE_Q8 ? FOURS + EIGHTS : 1u];
float key_unit(uint block) {
    float largest = 0.0;
    UNROLL (uint j = 0u; j < Q8_BLOCK / 4u; j++)
        largest = max(largest, magnitudes[block * (Q8_BLOCK / 4u) + j]);
    return q8_unit(largest);
}
float value_unit(uint block) {
    float largest = 0.0;
    UNROLL (uint j = 0u; j < Q8_BLOCK / 8u; j++)
        largest = max(largest, magnitudes[FOURS + block * (Q8_BLOCK / 8u) + j]);
    return q8_unit(largest);
}

// v as a cache of floats or half floats stores it.
vec4 as_stored(vec4 v) {
    return CACHE == CACHE_F16 ? vec4(unpackHalf2x16(packHalf2x16(v.xy)), unpackHalf2x16(packHalf2x16(v.zw)))
                              : v;
}

uint head_start(uint head) { return x_offset + token * x_stride + head * HEAD_DIM; }

void load_queries_and_current_key() {
    float factor[HEADS + 1u];
    UNROLL (uint h = 0u; h <= HEADS; h++)
        factor[h] = norm_factor(head_start(h < HEADS ? first_head + h : heads + kv_head));
    UNROLL (uint i = 0u; i < LANE_FOURS; i++) {
        Turn turn = turn_of(min(i * LANES + LANE, FOURS - 1u), position);
        UNROLL (uint h = 0u; h < HEADS; h++)
            lane_fours[h * LANE_FOURS + i] =
                normed_and_turned(head_start(first_head + h), turn, factor[h], true);
        vec4 key = normed_and_turned(head_start(heads + kv_head), turn, factor[CURRENT_KEY], false);
        lane_fours[CURRENT_KEY * LANE_FOURS + i] = as_stored(key);
    }
}

// Quantizes the current key to q8: keeps its codes and replaces the key with the dequantized one.
void quantize_current_key() {
    UNROLL (uint i = 0u; i < LANE_FOURS; i++) {
        uint four = i * LANES + LANE;
        if (four < FOURS) magnitudes[four] = q8_largest(lane_fours[CURRENT_KEY * LANE_FOURS + i]);
    }
    group_barrier();
    UNROLL (uint i = 0u; i < LANE_FOURS; i++) {
        float unit = key_unit(min(i * LANES + LANE, FOURS - 1u) / (Q8_BLOCK / 4u));
        key_code[i] = q8_rounded(lane_fours[CURRENT_KEY * LANE_FOURS + i], unit);
        lane_fours[CURRENT_KEY * LANE_FOURS + i] = q8_signed(key_code[i]) * q8_stored_unit(unit);
    }
}

// Eight neighboring elements of the current value as projected, number e.
void load_projected_value(uint e, out vec4 a, out vec4 b) {
    uint from = head_start(heads + kv_heads + kv_head) + 8u * e;
    a = as_stored(GATHER(x, from, uvec4(0u, 1u, 2u, 3u)));
    b = as_stored(GATHER(x, from, uvec4(4u, 5u, 6u, 7u)));
}

// Quantizes the current value to q8: keeps its codes.
void quantize_current_value() {
    vec4 a[LANE_EIGHTS], b[LANE_EIGHTS];
    UNROLL (uint c = 0u; c < LANE_EIGHTS; c++) {
        uint e = c * LANES + LANE;
        load_projected_value(eighth[c], a[c], b[c]);
        if (e < EIGHTS) magnitudes[FOURS + e] = max(q8_largest(a[c]), q8_largest(b[c]));
    }
    group_barrier();
    UNROLL (uint c = 0u; c < LANE_EIGHTS; c++) {
        float unit = value_unit(eighth[c] / (Q8_BLOCK / 8u));
        value_code[c] = uvec2(q8_rounded(a[c], unit), q8_rounded(b[c], unit));
    }
}

void load_current_value(uint c, out vec4 a, out vec4 b) {
    if (CACHE == CACHE_Q8) {
        float unit = q8_stored_unit(value_unit(eighth[c] / (Q8_BLOCK / 8u)));
        a = q8_signed(value_code[c].x) * unit;
        b = q8_signed(value_code[c].y) * unit;
    } else {
        load_projected_value(eighth[c], a, b);
    }
}

void store_current_bytes() {
    UNROLL (uint i = 0u; i < LANE_FOURS; i++) {
        uint four = i * LANES + LANE;
        if (four < FOURS) k_stored[q8_codes(current_row) + four] = key_code[i];
    }
    UNROLL (uint c = 0u; c < LANE_EIGHTS; c++) {
        uint e = c * LANES + LANE, to = q8_codes(current_row) + 2u * e;
        if (e >= EIGHTS) continue;
        v_stored[to] = value_code[c].x;
        v_stored[to + 1u] = value_code[c].y;
    }
    for (uint word = LANE; word < q8_scale_words(); word += LANES) {  // two blocks share one
        uint block = 2u * word;
        bool has_two = (block + 1u) * Q8_BLOCK < HEAD_DIM;
        vec2 key_units = vec2(key_unit(block), has_two ? key_unit(block + 1u) : 0.0);
        vec2 value_units = vec2(value_unit(block), has_two ? value_unit(block + 1u) : 0.0);
        k_stored[q8_scales(current_row) + word] = packHalf2x16(key_units);
        v_stored[q8_scales(current_row) + word] = packHalf2x16(value_units);
    }
}

void store_current_floats() {
    UNROLL (uint i = 0u; i < LANE_FOURS; i++) {
        uint four = i * LANES + LANE, to = current_row * 8u + 4u * four;
        vec4 v = lane_fours[CURRENT_KEY * LANE_FOURS + i];
        if (four >= FOURS) continue;
        STORE2(k_stored, to, v.xy)
        STORE2(k_stored, to + 2u, v.zw)
    }
    UNROLL (uint c = 0u; c < LANE_EIGHTS; c++) {
        uint e = c * LANES + LANE, to = (current_row + e) * 8u;
        if (e >= EIGHTS) continue;
        vec4 a, b;
        load_projected_value(e, a, b);
        STORE2(v_stored, to, a.xy)
        STORE2(v_stored, to + 2u, a.zw)
        STORE2(v_stored, to + 4u, b.xy)
        STORE2(v_stored, to + 6u, b.zw)
    }
}

void main() {
    if (!find_work(positions[first_token + gl_WorkGroupID.y])) return;
    load_queries_and_current_key();
    if (CACHE == CACHE_Q8) quantize_current_key();
    share_queries();
    if (CACHE == CACHE_Q8) quantize_current_value();
    bool stores = has_current &&
                  first_head % (heads / kv_heads) == 0u;  // one of the groups with the same key-value head
    if (stores && CACHE == CACHE_Q8) store_current_bytes();
    if (stores && CACHE != CACHE_Q8) store_current_floats();
    attend();
}
