#version 450
// Store keys and values of this step's tokens at their pages of the cache. One invocation per two neighbouring elements.
// Twin: vkbackend/ops/kv_write.py
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint PAGE_SIZE = 32;
layout(constant_id = 1) const bool HALF = true;           // the cache holds half floats, two in a uint; otherwise floats
layout(std430, binding = 0) readonly buffer K { float k[]; };                 // (tokens, width = kv_heads * head_dim)
layout(std430, binding = 1) readonly buffer V { float v[]; };
layout(std430, binding = 2) readonly buffer Positions { int positions[]; };   // (tokens); negative: slot unused
layout(std430, binding = 3) readonly buffer Sequences { int sequences[]; };   // (tokens)
layout(std430, binding = 4) readonly buffer PageTable { int page_table[]; };  // (sequences, pages_per_sequence)
layout(std430, binding = 5) writeonly buffer KCache { uint k_cache[]; };      // (pages, kv_heads, page_size, head_dim)
layout(std430, binding = 6) writeonly buffer VCache { uint v_cache[]; };

layout(push_constant) uniform Push { uint width, pages_per_sequence, k_offset, k_stride, v_offset, v_stride, head_dim; };

void main() {
    uint element = gl_GlobalInvocationID.x * 2u, token = gl_WorkGroupID.y;
    int position = positions[token];
    if (element >= width || position < 0) return;

    uint logical = uint(position) / PAGE_SIZE, slot = uint(position) % PAGE_SIZE;
    uint page = uint(page_table[uint(sequences[token]) * pages_per_sequence + logical]);
    uint kv_head = element / head_dim;                    // head_dim is even: both elements are of one head
    uint to = cache_row(page, kv_head, width / head_dim, slot, PAGE_SIZE) * head_dim + element % head_dim;
    uint from_k = k_offset + token * k_stride + element, from_v = v_offset + token * v_stride + element;
    vec2 key = vec2(k[from_k], k[from_k + 1u]), value = vec2(v[from_v], v[from_v + 1u]);
    if (HALF) {
        k_cache[to / 2u] = packHalf2x16(key);
        v_cache[to / 2u] = packHalf2x16(value);
    } else {
        k_cache[to] = floatBitsToUint(key.x);
        k_cache[to + 1u] = floatBitsToUint(key.y);
        v_cache[to] = floatBitsToUint(value.x);
        v_cache[to + 1u] = floatBitsToUint(value.y);
    }
}
