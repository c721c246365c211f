#version 450
// A row of projections, queries then keys then values, to where attention wants them: queries and keys normalized per head where asked for
// and rotated, keys and values stored at their pages of the cache. One group per head. Twin: vkbackend/ops/split_heads.py
//
// A lane takes four elements at a time, chosen so that it holds both partners of two rotations and whole words of the cache.
#extension GL_GOOGLE_include_directive : require
#define GROUP
#include "common.glsl"
#include "rotation.glsl"

layout(constant_id = 1) const uint HEAD_DIM = 64;
layout(constant_id = 2) const uint N_ROT = 64;
layout(constant_id = 3) const bool HALVES = false;        // pairs are (i, i + n_rot/2) instead of (2i, 2i + 1)
layout(constant_id = 4) const bool HAS_NORMS = false;
layout(constant_id = 5) const uint PAGE_SIZE = 32;
layout(constant_id = 6) const bool HALF = true;           // the cache holds half floats, two in a uint; otherwise floats
INPUT1(0, x);                                             // (tokens, heads + 2 kv_heads, head_dim)
layout(std430, binding = 1) readonly buffer Positions { int positions[]; };   // (tokens); negative: slot unused
layout(std430, binding = 2) readonly buffer Sequences { int sequences[]; };   // (tokens)
layout(std430, binding = 3) readonly buffer PageTable { int page_table[]; };  // (sequences, pages_per_sequence)
INPUT1(4, turns);                                         // (2, n_rot / 2)
INPUT1(5, q_norm);                                        // (head_dim); x where there is none
INPUT1(6, k_norm);
layout(std430, binding = 7) writeonly buffer Q { float q[]; };                // (tokens, heads, head_dim), dense
layout(std430, binding = 8) writeonly buffer KCache { uint k_cache[]; };      // (pages, page_size, kv_heads, head_dim)
layout(std430, binding = 9) writeonly buffer VCache { uint v_cache[]; };

layout(push_constant) uniform Push { uint heads, kv_heads, pages_per_sequence, x_offset, x_stride; float eps; };

const uint ROTATING = N_ROT / 4u;                         // of the head's fours

// The elements of a four: two pairs of rotation partners, or, past N_ROT, four neighbours.
uvec4 elements(uint four) {
    if (HALVES && four < ROTATING) return uvec4(2u * four, 2u * four + 1u, 2u * four + N_ROT / 2u, 2u * four + 1u + N_ROT / 2u);
    return 4u * four + uvec4(0u, 1u, 2u, 3u);
}

#define GATHER(NAME, base, e) vec4(LOAD1(NAME, (base) + e.x), LOAD1(NAME, (base) + e.y), LOAD1(NAME, (base) + e.z), LOAD1(NAME, (base) + e.w))

// Two neighbouring elements of a cache, from element `at` on.
#define STORE2(CACHE, at, pair)                                                            \
    if (HALF) CACHE[(at) / 2u] = packHalf2x16(pair);                                       \
    else { CACHE[at] = floatBitsToUint((pair).x); CACHE[(at) + 1u] = floatBitsToUint((pair).y); }

void main() {
    uint head = gl_WorkGroupID.x, token = gl_WorkGroupID.y;
    int position_ = positions[token];
    if (position_ < 0) return;
    uint position = uint(position_), from = x_offset + token * x_stride + head * HEAD_DIM;
    bool is_query = head < heads, is_value = head >= heads + kv_heads;

    float scale = 1.0;
    if (HAS_NORMS && !is_value) {
        float squares = 0.0;
        for (uint four = LANE; four < HEAD_DIM / 4u; four += LANES) {
            uvec4 e = elements(four);
            vec4 v = GATHER(x, from, e);
            squares += dot(v, v);
        }
        scale = inversesqrt(group_add(squares) / float(HEAD_DIM) + eps);
    }

    uint page = uint(page_table[uint(sequences[token]) * pages_per_sequence + position / PAGE_SIZE]);
    uint kv_head = is_value ? head - heads - kv_heads : head - heads;
    uint to = ((page * PAGE_SIZE + position % PAGE_SIZE) * kv_heads + kv_head) * HEAD_DIM;
    for (uint four = LANE; four < HEAD_DIM / 4u; four += LANES) {
        uvec4 e = elements(four);
        vec4 v = GATHER(x, from, e);
        if (is_value) {
            STORE2(v_cache, to + e.x, v.xy)
            STORE2(v_cache, to + e.z, v.zw)
            continue;
        }
        if (HAS_NORMS) v *= scale * (is_query ? GATHER(q_norm, 0u, e) : GATHER(k_norm, 0u, e));
        if (four < ROTATING) {
            // The pairs of a four are neighbours in rotation order: 2 four and 2 four + 1.
            vec2 one = sine_cosine(whole_turns(position, LOAD1(turns, 2u * four), LOAD1(turns, N_ROT / 2u + 2u * four)));
            vec2 two = sine_cosine(whole_turns(position, LOAD1(turns, 2u * four + 1u), LOAD1(turns, N_ROT / 2u + 2u * four + 1u)));
            vec2 s = vec2(one.x, two.x), c = vec2(one.y, two.y);
            vec2 a = HALVES ? v.xy : v.xz, b = HALVES ? v.zw : v.yw;
            vec2 left = a * c - b * s, right = a * s + b * c;
            v = HALVES ? vec4(left, right) : vec4(left.x, right.x, left.y, right.y);
        }
        if (is_query) {
            uint row = (token * heads + head) * HEAD_DIM;
            q[row + e.x] = v.x; q[row + e.y] = v.y; q[row + e.z] = v.z; q[row + e.w] = v.w;
        } else {
            STORE2(k_cache, to + e.x, v.xy)
            STORE2(k_cache, to + e.z, v.zw)
        }
    }
}
