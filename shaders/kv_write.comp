#version 450
// Store keys and values of this step's tokens at their pages of the cache. One invocation per two neighbouring elements, or, for bytes, per
// two neighbouring blocks of a head, whose scales share a word.
// Twin: vkbackend/ops/kv_write.py
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint PAGE_SIZE = 32;
layout(constant_id = 1) const uint CACHE = 1;             // type, see cache.glsl
layout(std430, binding = 0) readonly buffer K { float k[]; };                 // (tokens, width = kv_heads * head_dim)
layout(std430, binding = 1) readonly buffer V { float v[]; };
layout(std430, binding = 2) readonly buffer Positions { int positions[]; };   // (tokens); negative: slot unused
layout(std430, binding = 3) readonly buffer Sequences { int sequences[]; };   // (tokens)
layout(std430, binding = 4) readonly buffer PageTable { int page_table[]; };  // (sequences, pages_per_sequence)
layout(std430, binding = 5) writeonly buffer KCache { uint k_cache[]; };      // (pages, kv_heads, page_size, head_dim)
layout(std430, binding = 6) writeonly buffer VCache { uint v_cache[]; };

layout(push_constant) uniform Push { uint width, pages_per_sequence, k_offset, k_stride, v_offset, v_stride, head_dim; };
#define HEAD_DIM head_dim
#include "cache.glsl"

// Blocks 2 * pair and 2 * pair + 1 of a row of the cache.
#define STORE_BLOCKS(FROM, first, TO, row, pair)                                                                    \
    {                                                                                                               \
        vec2 units = vec2(0.0);                                                                                     \
        for (uint block = 2u * (pair); block < min(2u * (pair) + 2u, head_dim / 32u); block++) {                    \
            uint at = (first) + block * 32u;                                                                        \
            float largest = 0.0;                                                                                    \
            for (uint i = 0u; i < 32u; i++) largest = max(largest, abs(FROM[at + i]));                              \
            float unit = q8_unit(largest);                                                                          \
            units[block & 1u] = unit;                                                                               \
            for (uint j = 0u; j < 8u; j++, at += 4u)                                                                \
                TO[q8_codes(row) + block * 8u + j] = q8_rounded(vec4(FROM[at], FROM[at + 1u], FROM[at + 2u], FROM[at + 3u]), unit); \
        }                                                                                                           \
        TO[q8_scales(row) + (pair)] = packHalf2x16(units);                                                          \
    }

void main() {
    if (CACHE == CACHE_Q8) {
        uint pair = gl_GlobalInvocationID.x % q8_scale_words(), kv_head = gl_GlobalInvocationID.x / q8_scale_words();
        uint token = gl_WorkGroupID.y;
        int position = positions[token];
        if (kv_head * head_dim >= width || position < 0) return;
        uint page = uint(page_table[uint(sequences[token]) * pages_per_sequence + uint(position) / PAGE_SIZE]);
        uint row = cache_row(page, kv_head, width / head_dim, uint(position) % PAGE_SIZE);
        STORE_BLOCKS(k, k_offset + token * k_stride + kv_head * head_dim, k_cache, row, pair)
        STORE_BLOCKS(v, v_offset + token * v_stride + kv_head * head_dim, v_cache, row, pair)
        return;
    }
    uint element = gl_GlobalInvocationID.x * 2u, token = gl_WorkGroupID.y;
    int position = positions[token];
    if (element >= width || position < 0) return;

    uint logical = uint(position) / PAGE_SIZE, slot = uint(position) % PAGE_SIZE;
    uint page = uint(page_table[uint(sequences[token]) * pages_per_sequence + logical]);
    uint kv_head = element / head_dim;                    // head_dim is even: both elements are of one head
    uint to = cache_row(page, kv_head, width / head_dim, slot) * head_dim + element % head_dim;
    uint from_k = k_offset + token * k_stride + element, from_v = v_offset + token * v_stride + element;
    vec2 key = vec2(k[from_k], k[from_k + 1u]), value = vec2(v[from_v], v[from_v + 1u]);
    STORE2(k_cache, to, key)
    STORE2(v_cache, to, value)
}
