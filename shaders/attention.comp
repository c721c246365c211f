#version 450
// Causal attention over the paged cache. One group works on one token and on HEADS query heads that share a key-value head, so that keys
// and values are read once for all of them. Twins: vkbackend/ops/attention.py; with ROTATE vkbackend/ops/decode_attention.py
//
// Positions come in tiles of TILE = LANES * STEPS, tiles in chunks of CHUNK, counted from position 0. For the scores one lane is STEPS
// positions, for the weighted sum of values it is eight neighbouring dimensions of every PARTS-th position. Within a chunk the softmax is
// kept running, the token's own position last; the chunks' results are put together in order. So the order of every sum depends only on
// positions, never on the batch, nor on how many groups share the chunks: one group does all of them, or (SPLIT) every
// gl_NumWorkGroups.z-th and leaves the results in memory, and the group that is done last puts those of all together. No group waits for
// another: each counts itself once its results are written, and who counts last knows that all are there.
//
// ROTATE: queries, key and value of the token come as the projections left them. They are normalized and rotated here, and key and value
// stored: for steps in which no token needs the key of another.
#extension GL_GOOGLE_include_directive : require
#define GROUP
#include "common.glsl"
#include "softmax_parts.glsl"

layout(constant_id = 1) const uint HEAD_DIM = 64;
layout(constant_id = 2) const uint PAGE_SIZE = 32;
layout(constant_id = 3) const uint CACHE = 1;             // type, see cache.glsl
layout(constant_id = 4) const uint HEADS = 1;             // divides heads / kv_heads
layout(constant_id = 5) const uint STEPS = 1;
layout(constant_id = 6) const uint CHUNK = 256;           // a multiple of TILE
layout(constant_id = 7) const bool SPLIT = false;
layout(constant_id = 8) const bool SOFTCAP = false;
#ifdef ROTATE
layout(constant_id = 9) const uint N_ROT = 64;
layout(constant_id = 10) const bool HALVES = false;       // pairs are (i, i + n_rot/2) instead of (2i, 2i + 1)
layout(constant_id = 11) const bool HAS_NORMS = false;
INPUT1(0, x);                                             // (tokens, heads + 2 kv_heads, head_dim)
layout(std430, binding = 1) readonly buffer Positions { int positions[]; };   // (tokens); negative: slot unused
layout(std430, binding = 2) readonly buffer Sequences { int sequences[]; };   // (tokens)
layout(std430, binding = 3) readonly buffer PageTable { int page_table[]; };  // (sequences, pages_per_sequence)
INPUT1(4, turns);                                         // (2, n_rot / 2)
INPUT1(5, q_norm);                                        // (head_dim); x where there is none
INPUT1(6, k_norm);
INPUT4U(7, k_cache);                                      // (pages, kv_heads, page_size, head_dim): earlier positions
INPUT4U(8, v_cache);
layout(std430, binding = 9) writeonly buffer Y { vec4 y[]; };
layout(std430, binding = 10) writeonly buffer KCache { uint k_stored[]; };    // the same memory: the token's own position
layout(std430, binding = 11) writeonly buffer VCache { uint v_stored[]; };
#define PARTS_BINDING 12
#define DONE_BINDING 13
#else
INPUT4(0, q);                                             // (tokens, heads, head_dim)
INPUT4U(1, k_cache);                                      // (pages, kv_heads, page_size, head_dim)
INPUT4U(2, v_cache);
layout(std430, binding = 3) readonly buffer Positions { int positions[]; };   // (tokens); negative: slot unused
layout(std430, binding = 4) readonly buffer Sequences { int sequences[]; };   // (tokens)
layout(std430, binding = 5) readonly buffer PageTable { int page_table[]; };  // (sequences, pages_per_sequence)
layout(std430, binding = 6) writeonly buffer Y { vec4 y[]; };                 // (tokens, heads, head_dim), dense
#define PARTS_BINDING 7
#define DONE_BINDING 8
#endif
// SPLIT, else anything. Chunks' results, (tokens, heads, max_chunks, head_dim + 4): sums, then (highest, total). How many groups are
// done, (tokens, heads / HEADS): 0 before and after each dispatch.
layout(std430, binding = PARTS_BINDING) coherent buffer Parts { vec4 parts[]; };
layout(std430, binding = DONE_BINDING) coherent buffer Done { uint num_done[]; };

layout(push_constant) uniform Push {
    uint heads, kv_heads, pages_per_sequence, x_offset, x_stride;  // of q in fours, of x in elements
    uint window;                                                   // 0: all earlier positions
    float scale, softcap;
    uint max_chunks;                                               // of a head in SPLIT's result
    float eps;                                                     // of the norms
};

#include "cache.glsl"
#ifdef ROTATE
#include "head.glsl"
#endif

const uint FOURS = HEAD_DIM / 4u, EIGHTS = HEAD_DIM / 8u;
const uint Q_FOURS = (FOURS + LANES - 1u) / LANES;        // of a query per lane
const uint V_EIGHTS = (EIGHTS + LANES - 1u) / LANES;      // of a value per lane
const uint FITTING = LANES / EIGHTS;
const uint PARTS = FITTING >= 8u ? 8u : FITTING >= 4u ? 4u : FITTING >= 2u ? 2u : 1u;  // positions whose values are read at a time
const uint TILE = LANES * STEPS;

// Where a row of the cache begins, in units of which LOAD8 adds: eights of elements, or, in a cache of bytes, whole rows.
uint row_start(uint row) { return CACHE == CACHE_Q8 ? row : row * EIGHTS; }

// Eight neighbouring elements of a cache, number e of the row that begins at `row`.
#define LOAD8(NAME, row, e, a, b)                                                                     \
    if (CACHE == CACHE_Q8) {                                                                          \
        float unit = unpackHalf2x16(LOAD_WORD(NAME, q8_scales(row) + (e) / 8u))[(e) / 4u % 2u];       \
        a = q8_signed(LOAD_WORD(NAME, q8_codes(row) + 2u * (e))) * unit;                              \
        b = q8_signed(LOAD_WORD(NAME, q8_codes(row) + 2u * (e) + 1u)) * unit;                         \
    } else if (CACHE == CACHE_F16) {                                                                  \
        uvec4 raw = LOAD4(NAME, (row) + (e));                                                         \
        a = vec4(unpackHalf2x16(raw.x), unpackHalf2x16(raw.y));                                       \
        b = vec4(unpackHalf2x16(raw.z), unpackHalf2x16(raw.w));                                       \
    } else {                                                                                          \
        a = uintBitsToFloat(LOAD4(NAME, 2u * ((row) + (e))));                                         \
        b = uintBitsToFloat(LOAD4(NAME, 2u * ((row) + (e)) + 1u));                                    \
    }

#ifdef ROTATE
// What a cache of floats or half floats would hold.
vec4 stored(vec4 v) { return CACHE == CACHE_F16 ? vec4(unpackHalf2x16(packHalf2x16(v.xy)), unpackHalf2x16(packHalf2x16(v.zw))) : v; }

// Of the token's own key in fours, then of its value in eights: the largest, of which blocks of bytes are multiples.
shared float largest_of[CACHE == CACHE_Q8 ? FOURS + EIGHTS : 1u];
float key_unit(uint block) {
    float largest = 0.0;
    [[unroll]] for (uint j = 0u; j < 8u; j++) largest = max(largest, largest_of[block * 8u + j]);
    return q8_unit(largest);
}
float value_unit(uint block) {
    float largest = 0.0;
    [[unroll]] for (uint j = 0u; j < 4u; j++) largest = max(largest, largest_of[FOURS + block * 4u + j]);
    return q8_unit(largest);
}
#endif

// How lanes see what others hold: four elements of a query, or of the token's own key (as head HEADS), and weight and row of one of the
// tile's positions. Loops around these are unrolled, so that lanes are constants and a shuffle is one instruction on llvmpipe.
#ifdef SUBGROUP
#define QUERY(h, j) subgroupShuffle(mine[(h) * Q_FOURS + (j) / LANES], (j) % LANES)
#define WEIGHT(h, s, lane) subgroupShuffle(score[(h) * STEPS + (s)], lane)
#define ROW(s, lane) subgroupShuffle(row[s], lane)
#else
shared vec4 fours[(HEADS + 1u) * FOURS];
shared float weights[HEADS * TILE];
shared uint rows[TILE];
#define QUERY(h, j) fours[(h) * FOURS + (j)]
#define WEIGHT(h, s, lane) weights[((h) * STEPS + (s)) * LANES + (lane)]
#define ROW(s, lane) rows[(s) * LANES + (lane)]
#endif

// All that the group's lanes wrote until here is there for whoever in the device learns of it afterwards, and what others made known so
// for all its lanes.
void group_memory_barrier() {
    memoryBarrierBuffer();
#ifdef SUBGROUP
    subgroupBarrier();
#else
    barrier();
#endif
    memoryBarrierBuffer();
}

vec4 from_lane(vec4 v, uint lane) {
    return vec4(group_broadcast(v.x, lane), group_broadcast(v.y, lane), group_broadcast(v.z, lane), group_broadcast(v.w, lane));
}

float finished(float score) {
    score *= scale;
    if (SOFTCAP) score = softcap * tanh(score / softcap);
    return score;
}

void main() {
    uint head0 = gl_WorkGroupID.x * HEADS, token = gl_WorkGroupID.y;
    int position_ = positions[token];
    if (position_ < 0) return;
    uint position = uint(position_), kv_head = head0 / (heads / kv_heads);
    uint table = uint(sequences[token]) * pages_per_sequence;
    uint first = window > 0u && position + 1u > window ? position + 1u - window : 0u;
    uint first_chunk = first / CHUNK, last_chunk = position / CHUNK;
    if (first_chunk + gl_WorkGroupID.z > last_chunk) return;
    bool has_own = (last_chunk - first_chunk) % gl_NumWorkGroups.z == gl_WorkGroupID.z;  // this group does the token's own position
    uint own_row = row_start(cache_row(uint(page_table[table + position / PAGE_SIZE]), kv_head, kv_heads, position % PAGE_SIZE));

    // Queries and the token's own key: one lane, every LANES-th four.
    vec4 mine[(HEADS + 1u) * Q_FOURS];
#ifdef ROTATE
    uint x_row = x_offset + token * x_stride;
    float factor[HEADS + 1u];
    [[unroll]] for (uint h = 0u; h <= HEADS; h++) factor[h] = norm_factor(x_row + (h < HEADS ? head0 + h : heads + kv_head) * HEAD_DIM);
    [[unroll]] for (uint i = 0u; i < Q_FOURS; i++) {
        Turn t = turn_of(min(i * LANES + LANE, FOURS - 1u), position);
        [[unroll]] for (uint h = 0u; h < HEADS; h++)
            mine[h * Q_FOURS + i] = normed_and_turned(x_row + (head0 + h) * HEAD_DIM, t, factor[h], true);
        mine[HEADS * Q_FOURS + i] = stored(normed_and_turned(x_row + (heads + kv_head) * HEAD_DIM, t, factor[HEADS], false));
    }
    uint key_code[CACHE == CACHE_Q8 ? Q_FOURS : 1u];
    if (CACHE == CACHE_Q8) {
        [[unroll]] for (uint i = 0u; i < Q_FOURS; i++)
            if (i * LANES + LANE < FOURS) largest_of[i * LANES + LANE] = q8_largest(mine[HEADS * Q_FOURS + i]);
        group_barrier();
        [[unroll]] for (uint i = 0u; i < Q_FOURS; i++) {
            float unit = key_unit(min(i * LANES + LANE, FOURS - 1u) / 8u);
            key_code[i] = q8_rounded(mine[HEADS * Q_FOURS + i], unit);
            mine[HEADS * Q_FOURS + i] = q8_signed(key_code[i]) * q8_stored_unit(unit);
        }
    }
#else
    [[unroll]] for (uint i = 0u; i < Q_FOURS; i++) {
        uint four = min(i * LANES + LANE, FOURS - 1u);
        [[unroll]] for (uint h = 0u; h < HEADS; h++) mine[h * Q_FOURS + i] = LOAD4(q, x_offset + token * x_stride + (head0 + h) * FOURS + four);
        vec4 a, b;
        LOAD8(k_cache, own_row, four / 2u, a, b)
        mine[HEADS * Q_FOURS + i] = four % 2u == 0u ? a : b;
    }
#endif
#ifndef SUBGROUP
    [[unroll]] for (uint i = 0u; i < Q_FOURS; i++) {
        uint four = i * LANES + LANE;
        if (four < FOURS) {
            [[unroll]] for (uint h = 0u; h <= HEADS; h++) fours[h * FOURS + four] = mine[h * Q_FOURS + i];
        }
    }
    barrier();
#endif

    // The token's own value: one lane, eight dimensions.
    uint part = PARTS > 1u ? min(LANE / EIGHTS, PARTS - 1u) : 0u;
    uint eighth[V_EIGHTS];
    vec4 own_low[V_EIGHTS], own_high[V_EIGHTS];
    [[unroll]] for (uint c = 0u; c < V_EIGHTS; c++) {
        eighth[c] = PARTS > 1u ? LANE % EIGHTS : min(c * LANES + LANE, EIGHTS - 1u);
#ifdef ROTATE
        uint from = x_row + (heads + kv_heads + kv_head) * HEAD_DIM + 8u * eighth[c];
        own_low[c] = stored(GATHER(x, from, uvec4(0u, 1u, 2u, 3u)));
        own_high[c] = stored(GATHER(x, from, uvec4(4u, 5u, 6u, 7u)));
#else
        LOAD8(v_cache, own_row, eighth[c], own_low[c], own_high[c])
#endif
    }
#ifdef ROTATE
    uvec2 value_code[CACHE == CACHE_Q8 ? V_EIGHTS : 1u];
    if (CACHE == CACHE_Q8) {
        [[unroll]] for (uint c = 0u; c < V_EIGHTS; c++)
            if (c * LANES + LANE < EIGHTS) largest_of[FOURS + c * LANES + LANE] = max(q8_largest(own_low[c]), q8_largest(own_high[c]));
        group_barrier();
        [[unroll]] for (uint c = 0u; c < V_EIGHTS; c++) {
            float unit = value_unit(eighth[c] / 4u);
            value_code[c] = uvec2(q8_rounded(own_low[c], unit), q8_rounded(own_high[c], unit));
            own_low[c] = q8_signed(value_code[c].x) * q8_stored_unit(unit);
            own_high[c] = q8_signed(value_code[c].y) * q8_stored_unit(unit);
        }
    }
    bool stores = has_own && head0 % (heads / kv_heads) == 0u;  // of the groups that share the key-value head, one does
    if (CACHE == CACHE_Q8 && stores) {
        [[unroll]] for (uint i = 0u; i < Q_FOURS; i++)
            if (i * LANES + LANE < FOURS) k_stored[q8_codes(own_row) + i * LANES + LANE] = key_code[i];
        [[unroll]] for (uint c = 0u; c < V_EIGHTS; c++) {
            uint to = q8_codes(own_row) + 2u * (c * LANES + LANE);
            if (c * LANES + LANE < EIGHTS) {
                v_stored[to] = value_code[c].x;
                v_stored[to + 1u] = value_code[c].y;
            }
        }
        for (uint word = LANE; word < q8_scale_words(); word += LANES) {
            bool has_two = 64u * word + 32u < HEAD_DIM;
            k_stored[q8_scales(own_row) + word] = packHalf2x16(vec2(key_unit(2u * word), has_two ? key_unit(2u * word + 1u) : 0.0));
            v_stored[q8_scales(own_row) + word] = packHalf2x16(vec2(value_unit(2u * word), has_two ? value_unit(2u * word + 1u) : 0.0));
        }
    }
    if (CACHE != CACHE_Q8 && stores) {
        [[unroll]] for (uint i = 0u; i < Q_FOURS; i++) {
            uint four = i * LANES + LANE, to = own_row * 8u + 4u * four;
            vec4 v = mine[HEADS * Q_FOURS + i];
            if (four < FOURS) {
                STORE2(k_stored, to, v.xy)
                STORE2(k_stored, to + 2u, v.zw)
            }
        }
        [[unroll]] for (uint c = 0u; c < V_EIGHTS; c++) {
            uint to = (own_row + c * LANES + LANE) * 8u;
            if (c * LANES + LANE < EIGHTS) {
                STORE2(v_stored, to, own_low[c].xy)
                STORE2(v_stored, to + 2u, own_low[c].zw)
                STORE2(v_stored, to + 4u, own_high[c].xy)
                STORE2(v_stored, to + 6u, own_high[c].zw)
            }
        }
    }
#endif

    float all_highest[HEADS], all_total[HEADS];
    vec4 all_low[HEADS * V_EIGHTS], all_high[HEADS * V_EIGHTS];
    [[unroll]] for (uint h = 0u; h < HEADS; h++) { all_highest[h] = LOWEST; all_total[h] = 0.0; }
    [[unroll]] for (uint c = 0u; c < HEADS * V_EIGHTS; c++) all_low[c] = all_high[c] = vec4(0.0);

    for (uint chunk = first_chunk + gl_WorkGroupID.z; chunk <= last_chunk; chunk += gl_NumWorkGroups.z) {
        float highest[HEADS], total[HEADS];               // total: of the lane's own positions
        vec4 low[HEADS * V_EIGHTS], high[HEADS * V_EIGHTS];
        [[unroll]] for (uint h = 0u; h < HEADS; h++) { highest[h] = LOWEST; total[h] = 0.0; }
        [[unroll]] for (uint c = 0u; c < HEADS * V_EIGHTS; c++) low[c] = high[c] = vec4(0.0);
        uint begin = max(first, chunk * CHUNK), end = min(position, chunk * CHUNK + CHUNK);

        for (uint tile = begin / TILE * TILE; tile < end; tile += TILE) {
            // Scores: one lane, STEPS positions. Those not seen read one that is.
            uint row[STEPS];
            float score[HEADS * STEPS];
            [[unroll]] for (uint s = 0u; s < STEPS; s++) {
                uint at = min(tile + s * LANES + LANE, end - 1u);
                row[s] = row_start(cache_row(uint(page_table[table + at / PAGE_SIZE]), kv_head, kv_heads, at % PAGE_SIZE));
            }
            [[unroll]] for (uint i = 0u; i < HEADS * STEPS; i++) score[i] = 0.0;
            [[unroll]] for (uint e = 0u; e < EIGHTS; e++) {
                vec4 a[STEPS], b[STEPS];
                [[unroll]] for (uint s = 0u; s < STEPS; s++) { LOAD8(k_cache, row[s], e, a[s], b[s]) }
                [[unroll]] for (uint h = 0u; h < HEADS; h++) {
                    vec4 p = QUERY(h, 2u * e), r = QUERY(h, 2u * e + 1u);
                    [[unroll]] for (uint s = 0u; s < STEPS; s++) {
                        float even = fma(p.w, a[s].w, fma(p.z, a[s].z, fma(p.y, a[s].y, fma(p.x, a[s].x, score[h * STEPS + s]))));
                        score[h * STEPS + s] = fma(r.w, b[s].w, fma(r.z, b[s].z, fma(r.y, b[s].y, fma(r.x, b[s].x, even))));
                    }
                }
            }

            // Running softmax. Selections, not branches: a branch costs llvmpipe a mask on everything that changes within.
            [[unroll]] for (uint h = 0u; h < HEADS; h++) {
                float largest = LOWEST;
                [[unroll]] for (uint s = 0u; s < STEPS; s++) {
                    uint at = tile + s * LANES + LANE;
                    float here = finished(score[h * STEPS + s]);
                    score[h * STEPS + s] = at >= begin && at < end ? here : LOWEST;
                    largest = max(largest, score[h * STEPS + s]);
                }
                float now = max(highest[h], group_max(largest)), shrink = exp(highest[h] - now);
                highest[h] = now;
                total[h] *= shrink;
                [[unroll]] for (uint s = 0u; s < STEPS; s++) {
                    uint at = tile + s * LANES + LANE;
                    float weight = exp(score[h * STEPS + s] - now);
                    score[h * STEPS + s] = at >= begin && at < end ? weight : 0.0;
                    total[h] += score[h * STEPS + s];
                }
                [[unroll]] for (uint c = 0u; c < V_EIGHTS; c++) { low[h * V_EIGHTS + c] *= shrink; high[h * V_EIGHTS + c] *= shrink; }
            }
#ifndef SUBGROUP
            barrier();
            [[unroll]] for (uint s = 0u; s < STEPS; s++) {
                rows[s * LANES + LANE] = row[s];
                [[unroll]] for (uint h = 0u; h < HEADS; h++) weights[(h * STEPS + s) * LANES + LANE] = score[h * STEPS + s];
            }
            barrier();
#endif

            // Weighted sum: one lane, eight dimensions.
            [[unroll]] for (uint s = 0u; s < STEPS; s++) {
                [[unroll]] for (uint i = 0u; i < LANES / PARTS; i++) {
                    uint lane = i * PARTS + part, other = ROW(s, lane);
                    float w[HEADS];
                    [[unroll]] for (uint h = 0u; h < HEADS; h++) w[h] = WEIGHT(h, s, lane);
                    [[unroll]] for (uint c = 0u; c < V_EIGHTS; c++) {
                        vec4 a, b;
                        LOAD8(v_cache, other, eighth[c], a, b)
                        [[unroll]] for (uint h = 0u; h < HEADS; h++) {
                            low[h * V_EIGHTS + c] = fma(vec4(w[h]), a, low[h * V_EIGHTS + c]);
                            high[h * V_EIGHTS + c] = fma(vec4(w[h]), b, high[h * V_EIGHTS + c]);
                        }
                    }
                }
            }
        }

        // The token's own position; its sums are the business of the first lanes alone.
        if (chunk == last_chunk) {
            float score[HEADS];
            [[unroll]] for (uint h = 0u; h < HEADS; h++) score[h] = 0.0;
            [[unroll]] for (uint j = 0u; j < FOURS; j++) {
                vec4 k = QUERY(HEADS, j);
                [[unroll]] for (uint h = 0u; h < HEADS; h++) {
                    vec4 p = QUERY(h, j);
                    score[h] = fma(p.w, k.w, fma(p.z, k.z, fma(p.y, k.y, fma(p.x, k.x, score[h]))));
                }
            }
            [[unroll]] for (uint h = 0u; h < HEADS; h++) {
                float here = finished(score[h]), now = max(highest[h], here), shrink = exp(highest[h] - now), weight = exp(here - now);
                highest[h] = now;
                total[h] = fma(total[h], shrink, LANE == 0u ? weight : 0.0);
                float mask = PARTS > 1u && LANE >= EIGHTS ? 0.0 : weight;
                [[unroll]] for (uint c = 0u; c < V_EIGHTS; c++) {
                    low[h * V_EIGHTS + c] = fma(vec4(mask), own_low[c], low[h * V_EIGHTS + c] * shrink);
                    high[h * V_EIGHTS + c] = fma(vec4(mask), own_high[c], high[h * V_EIGHTS + c] * shrink);
                }
            }
        }

        [[unroll]] for (uint h = 0u; h < HEADS; h++) {
            float sum = group_add(total[h]);
            vec2 factors = part_factors(all_highest[h], highest[h]);
            uint part_row = ((token * heads + head0 + h) * max_chunks + chunk - first_chunk) * (FOURS + 1u);
            [[unroll]] for (uint c = 0u; c < V_EIGHTS; c++) {
                uint i = h * V_EIGHTS + c;
                if (PARTS > 1u) {                         // V_EIGHTS is 1: the first lanes gather what the others have
                    vec4 other_low = low[i], other_high = high[i];
                    [[unroll]] for (uint p = 1u; p < PARTS; p++) {
                        low[i] += from_lane(other_low, (LANE + p * EIGHTS) % LANES);
                        high[i] += from_lane(other_high, (LANE + p * EIGHTS) % LANES);
                    }
                }
                if (SPLIT) {
                    if (c * LANES + LANE < EIGHTS) {
                        parts[part_row + 2u * (c * LANES + LANE)] = low[i];
                        parts[part_row + 2u * (c * LANES + LANE) + 1u] = high[i];
                    }
                } else {
                    all_low[i] = put_together(all_low[i], low[i], factors);
                    all_high[i] = put_together(all_high[i], high[i], factors);
                }
            }
            if (SPLIT && LANE == 0u) parts[part_row + FOURS].xy = vec2(highest[h], sum);
            all_total[h] = put_together(all_total[h], sum, factors);
            all_highest[h] = max(all_highest[h], highest[h]);
        }
    }

    if (SPLIT) {
        uint num_chunks = last_chunk - first_chunk + 1u, counter = token * gl_NumWorkGroups.x + gl_WorkGroupID.x, num_before = 0u;
        group_memory_barrier();
        if (LANE == 0u) num_before = atomicAdd(num_done[counter], 1u);
        num_before = group_broadcast_uint(num_before, 0u);
        if (num_before + 1u < min(num_chunks, gl_NumWorkGroups.z)) return;
        group_memory_barrier();
        if (LANE == 0u) num_done[counter] = 0u;           // for the next dispatch; in this one nobody else comes
        [[unroll]] for (uint h = 0u; h < HEADS; h++) {
            float highest = LOWEST, total = 0.0;
            vec4 sums[Q_FOURS];
            [[unroll]] for (uint i = 0u; i < Q_FOURS; i++) sums[i] = vec4(0.0);
            for (uint chunk = 0u; chunk < num_chunks; chunk++) {
                uint part_row = ((token * heads + head0 + h) * max_chunks + chunk) * (FOURS + 1u);
                vec2 of_part = parts[part_row + FOURS].xy;
                vec2 factors = part_factors(highest, of_part.x);
                [[unroll]] for (uint i = 0u; i < Q_FOURS; i++)
                    sums[i] = put_together(sums[i], parts[part_row + min(i * LANES + LANE, FOURS - 1u)], factors);
                total = put_together(total, of_part.y, factors);
                highest = max(highest, of_part.x);
            }
            [[unroll]] for (uint i = 0u; i < Q_FOURS; i++)
                if (i * LANES + LANE < FOURS) y[(token * heads + head0 + h) * FOURS + i * LANES + LANE] = sums[i] / total;
        }
        return;
    }
    [[unroll]] for (uint h = 0u; h < HEADS; h++) {
        uint out_row = (token * heads + head0 + h) * FOURS;
        [[unroll]] for (uint c = 0u; c < V_EIGHTS; c++) {
            uint e = c * LANES + LANE;
            if (e < EIGHTS) {
                y[out_row + 2u * e] = all_low[h * V_EIGHTS + c] / all_total[h];
                y[out_row + 2u * e + 1u] = all_high[h * V_EIGHTS + c] / all_total[h];
            }
        }
    }
}
