#version 450
// Stores keys and values of this step's tokens in their pages of the cache. One invocation per two
// neighboring elements, or, for bytes, per two neighboring blocks of a head, whose scales share a word.
// Twin: vkbackend/ops/kv_write.py
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint PAGE_SIZE = 32;
layout(constant_id = 1) const uint CACHE = 1;                  // type, see cache.glsl
layout(std430, binding = 0) readonly buffer K { float k[]; };  // (tokens, width = kv_heads * head_dim)
layout(std430, binding = 1) readonly buffer V { float v[]; };
layout(std430, binding = 2) readonly buffer Positions { int positions[]; };  // (tokens); negative: unused
layout(std430, binding = 3) readonly buffer Sequences { int sequences[]; };  // (tokens)
// (sequences, pages_per_sequence)
layout(std430, binding = 4) readonly buffer PageTable { int page_table[]; };
// (pages, kv_heads, page_size, head_dim)
layout(std430, binding = 5) writeonly buffer KCache { uint k_cache[]; };
layout(std430, binding = 6) writeonly buffer VCache { uint v_cache[]; };

layout(push_constant) uniform Push {
    uint width, pages_per_sequence;
    uint k_offset, k_stride, v_offset, v_stride;
    uint head_dim;
};
#define HEAD_DIM head_dim
#include "cache.glsl"

// Stores blocks 2 * pair and 2 * pair + 1 of a row of the cache, from element `first` of FROM on.
#define STORE_BLOCKS(FROM, first, TO, row, pair)                                            \
    {                                                                                       \
        vec2 units = vec2(0.0);                                                             \
        for (uint which = 0u; which < 2u; which++) {                                        \
            uint block = 2u * (pair) + which, at = (first) + block * Q8_BLOCK;              \
            if (block >= head_dim / Q8_BLOCK) break;                                        \
            float largest = 0.0;                                                            \
            for (uint i = 0u; i < Q8_BLOCK; i++) largest = max(largest, abs(FROM[at + i])); \
            float unit = q8_unit(largest);                                                  \
            units[which] = unit;                                                            \
            for (uint j = 0u; j < Q8_BLOCK / 4u; j++, at += 4u) {                           \
                vec4 v = vec4(FROM[at], FROM[at + 1u], FROM[at + 2u], FROM[at + 3u]);       \
                TO[q8_codes(row) + block * (Q8_BLOCK / 4u) + j] = q8_rounded(v, unit);      \
            }                                                                               \
        }                                                                                   \
        TO[q8_scales(row) + (pair)] = packHalf2x16(units);                                  \
    }

uint row_of(uint token, uint kv_head) {
    uint position = uint(positions[token]);
    uint page = uint(page_table[uint(sequences[token]) * pages_per_sequence + position / PAGE_SIZE]);
    return cache_row(page, kv_head, width / head_dim, position % PAGE_SIZE);
}

void store_bytes(uint token) {
    uint pair = gl_GlobalInvocationID.x % q8_scale_words(),
         kv_head = gl_GlobalInvocationID.x / q8_scale_words();
    if (kv_head * head_dim >= width) return;
    uint row = row_of(token, kv_head);
    STORE_BLOCKS(k, k_offset + token * k_stride + kv_head * head_dim, k_cache, row, pair)
    STORE_BLOCKS(v, v_offset + token * v_stride + kv_head * head_dim, v_cache, row, pair)
}

void store_floats(uint token) {
    uint element = gl_GlobalInvocationID.x * 2u;  // head_dim is even: both elements are of one head
    if (element >= width) return;
    uint to = row_of(token, element / head_dim) * head_dim + element % head_dim;
    uint from_k = k_offset + token * k_stride + element, from_v = v_offset + token * v_stride + element;
    vec2 key = vec2(k[from_k], k[from_k + 1u]), value = vec2(v[from_v], v[from_v + 1u]);
    STORE2(k_cache, to, key)
    STORE2(v_cache, to, value)
}

void main() {
    uint token = gl_WorkGroupID.y;
    if (positions[token] < 0) return;
    if (CACHE == CACHE_Q8)
        store_bytes(token);
    else
        store_floats(token);
}
