// Attention of one token over the paged cache, shared by attention.comp and decode_attention.comp.
//
// A group works on one token and on HEADS query heads that share a key-value head, so that keys and values
// are read once for all of them. The includer declares the inputs (positions, sequences, page_table, k_cache,
// v_cache, sinks), the outputs (y, parts, num_done) and the push block, fills in `lane_fours` and defines
// `load_current_value`.
//
// Positions come in tiles of TILE = LANES * STEPS, tiles in chunks of CHUNK, counted from position 0. For the
// scores a lane takes STEPS positions; for the weighted sum of values it takes eight neighboring dimensions
// of every STRIDE-th position. Within a chunk the softmax is kept running, with the current position (the
// last one that the token sees) at the end; the results of chunks are merged in order. So the order of every
// sum depends only on positions, never on the batch or on how many groups share the chunks: either one group
// computes all of them, or (SPLIT) each computes every gl_NumWorkGroups.z-th and leaves the results in
// memory, and the last group to finish merges them. No group waits for another: a group increments a counter
// once its results are written, so the group that increments it last knows that all results are there.
#include "softmax_parts.glsl"

layout(constant_id = 1) const uint HEAD_DIM = 64;
layout(constant_id = 2) const uint PAGE_SIZE = 32;
layout(constant_id = 3) const uint CACHE = 1;  // element type, see cache.glsl
layout(constant_id = 4) const uint HEADS = 1;  // divides heads / kv_heads
layout(constant_id = 5) const uint STEPS = 1;
layout(constant_id = 6) const uint CHUNK = 256;  // a multiple of TILE
layout(constant_id = 7) const bool SPLIT = false;
layout(constant_id = 8) const bool SOFTCAP = false;
layout(constant_id = 13) const bool HAS_SINKS = false;
#include "cache.glsl"

const uint FOURS = HEAD_DIM / 4u, EIGHTS = HEAD_DIM / 8u;
const uint LANE_FOURS = (FOURS + LANES - 1u) / LANES;    // fours of a query per lane
const uint LANE_EIGHTS = (EIGHTS + LANES - 1u) / LANES;  // eights of a value per lane
const uint ROWS_THAT_FIT = LANES / EIGHTS;               // value rows that the lanes can read at a time
const uint STRIDE = ROWS_THAT_FIT >= 8u ? 8u : ROWS_THAT_FIT >= 4u ? 4u : ROWS_THAT_FIT >= 2u ? 2u : 1u;
const uint TILE = LANES * STEPS;
const uint CURRENT_KEY = HEADS;                  // index of the current key, which stands after the queries
const uint ROUND = EIGHTS % 4u == 0u ? 4u : 1u;  // eights of a key that are loaded at a time, if USES_SHARED
const uint PART_FOURS = FOURS + 1u;  // of a chunk's result in `parts`: sums, then (highest, total)
// Queries and the sums of all chunks lie in shared memory if lanes lack the registers for them, as at 8 lanes
// with heads of 256. On llvmpipe shared memory is no faster than its spilled registers.
#ifdef SUBGROUP
const bool IS_SUBGROUP = true;
#else
const bool IS_SUBGROUP = false;
#endif
#if defined(SUBGROUP) && !defined(TEXEL)
const bool USES_SHARED = LANE_EIGHTS > 2u;
#else
const bool USES_SHARED = false;
#endif

// The work of this group.
uint token, position, first_head, kv_head, page_table_row;
uint first_position, first_chunk, last_chunk;  // that the token sees
uint current_row;                              // of the cache
bool has_current;                              // this group adds the current position

// State of a lane. Fours and eights are taken LANES apart.
vec4 lane_fours[(HEADS + 1u) * LANE_FOURS];  // of the queries and the current key
uint eighth[LANE_EIGHTS];                    // dimensions 8 * eighth ... + 7 of the values
uint row[STEPS];                             // cache rows of the tile's positions
float score[HEADS * STEPS];                  // their scores, then their weights
float highest[HEADS], total[HEADS];          // of the chunk's softmax; total: of the lane's own positions
vec4 low[HEADS * LANE_EIGHTS], high[HEADS * LANE_EIGHTS];  // the chunk's weighted sum of values
float all_highest[HEADS], all_total[HEADS];                // the same of all chunks so far, if not SPLIT
vec4 all_low[HEADS * LANE_EIGHTS], all_high[HEADS * LANE_EIGHTS];
shared vec4 shared_sums[USES_SHARED ? 2u * HEADS * LANE_EIGHTS * LANES : 1u];  // low, high of each lane
uint shared_sum(uint i) { return USES_SHARED ? 2u * (i * LANES + LANE) : 0u; }
vec4 all_low_of(uint i) { return USES_SHARED ? shared_sums[shared_sum(i)] : all_low[i]; }
vec4 all_high_of(uint i) { return USES_SHARED ? shared_sums[shared_sum(i) + 1u] : all_high[i]; }
void set_all(uint i, vec4 a, vec4 b) {
    if (USES_SHARED) {
        shared_sums[shared_sum(i)] = a;
        shared_sums[shared_sum(i) + 1u] = b;
    } else {
        all_low[i] = a;
        all_high[i] = b;
    }
}

// Reads of values that other lanes hold: four elements of a query or of the current key, weight and row of
// one of the tile's positions. The loops around them are unrolled, so that lanes are constants, except those
// of weights and rows if the lanes read several values at a time (STRIDE > 1).
shared vec4 shared_fours[USES_SHARED || !IS_SUBGROUP ? (HEADS + 1u) * FOURS : 1u];
void share_fours() {
    UNROLL (uint i = 0u; i < LANE_FOURS; i++) {
        uint four = i * LANES + LANE;
        if (four >= FOURS) continue;
        UNROLL (uint h = 0u; h <= HEADS; h++) shared_fours[h * FOURS + four] = lane_fours[h * LANE_FOURS + i];
    }
    group_barrier();
}
#ifdef SUBGROUP
#include "lanes.glsl"
vec4 query(uint h, uint j) {
    if (USES_SHARED) return shared_fours[h * FOURS + j];
    return FROM_LANE(lane_fours[h * LANE_FOURS + j / LANES], j % LANES);
}
#define FROM_STRIDE(v, lane) (STRIDE > 1u || USES_SHARED ? subgroupShuffle(v, lane) : FROM_LANE(v, lane))
#define WEIGHT(h, s, lane) FROM_STRIDE(score[(h) * STEPS + (s)], lane)
#define ROW(s, lane) FROM_STRIDE(row[s], lane)
void share_queries() {
    if (USES_SHARED) share_fours();
}
void share_weights() {}
#else
shared float shared_weights[HEADS * TILE];
shared uint shared_rows[TILE];
vec4 query(uint h, uint j) { return shared_fours[h * FOURS + j]; }
#define WEIGHT(h, s, lane) shared_weights[((h) * STEPS + (s)) * LANES + (lane)]
#define ROW(s, lane) shared_rows[(s) * LANES + (lane)]
void share_queries() { share_fours(); }
void share_weights() {
    barrier();
    UNROLL (uint s = 0u; s < STEPS; s++) {
        shared_rows[s * LANES + LANE] = row[s];
        UNROLL (uint h = 0u; h < HEADS; h++)
            shared_weights[(h * STEPS + s) * LANES + LANE] = score[h * STEPS + s];
    }
    barrier();
}
#endif

// Start of a cache row, in the units to which load_key and load_value add: eights of elements, or, in a cache
// of bytes, whole rows.
uint row_start(uint row) { return CACHE == CACHE_Q8 ? row : row * EIGHTS; }

uint row_of_position(uint at) {
    return row_start(
        cache_row(uint(page_table[page_table_row + at / PAGE_SIZE]), kv_head, kv_heads, at % PAGE_SIZE));
}

// Eight neighboring elements, number e of the row that starts at `start`.
#define CACHE_LOADER(FUNCTION, NAME)                                                              \
    void FUNCTION(uint start, uint e, out vec4 a, out vec4 b) {                                   \
        if (CACHE == CACHE_Q8) {                                                                  \
            float unit = unpackHalf2x16(LOAD_WORD(NAME, q8_scales(start) + e / 8u))[e / 4u % 2u]; \
            a = q8_signed(LOAD_WORD(NAME, q8_codes(start) + 2u * e)) * unit;                      \
            b = q8_signed(LOAD_WORD(NAME, q8_codes(start) + 2u * e + 1u)) * unit;                 \
        } else if (CACHE == CACHE_F16) {                                                          \
            uvec4 raw = LOAD4(NAME, start + e);                                                   \
            a = vec4(unpackHalf2x16(raw.x), unpackHalf2x16(raw.y));                               \
            b = vec4(unpackHalf2x16(raw.z), unpackHalf2x16(raw.w));                               \
        } else {                                                                                  \
            a = uintBitsToFloat(LOAD4(NAME, 2u * (start + e)));                                   \
            b = uintBitsToFloat(LOAD4(NAME, 2u * (start + e) + 1u));                              \
        }                                                                                         \
    }
CACHE_LOADER(load_key, k_cache)
CACHE_LOADER(load_value, v_cache)

// Sets the work of this group; false if there is none. The current position is the last one that the token
// sees: its own, unless it sees what follows. The window counts back from its own.
bool find_work(int last_seen) {
    first_head = gl_WorkGroupID.x * HEADS;
    token = first_token + gl_WorkGroupID.y;
    if (positions[token] < 0) return false;
    uint own = uint(positions[token]);
    position = uint(last_seen);
    kv_head = first_head / (heads / kv_heads);
    page_table_row = uint(sequences[token]) * pages_per_sequence;
    first_position = window > 0u && own + 1u > window ? own + 1u - window : 0u;
    first_chunk = first_position / CHUNK;
    last_chunk = position / CHUNK;
    if (first_chunk + gl_WorkGroupID.z > last_chunk) return false;
    has_current = (last_chunk - first_chunk) % gl_NumWorkGroups.z == gl_WorkGroupID.z;
    current_row = row_of_position(position);
    UNROLL (uint c = 0u; c < LANE_EIGHTS; c++)
        eighth[c] = STRIDE > 1u ? LANE % EIGHTS : min(c * LANES + LANE, EIGHTS - 1u);
    return true;
}

float scaled(float product) {
    product *= scale;
    if (SOFTCAP) product = softcap * tanh(product / softcap);
    return product;
}

// sum plus four products, added in this order.
float add_products(vec4 p, vec4 k, float sum) {
    return fma(p.w, k.w, fma(p.z, k.z, fma(p.y, k.y, fma(p.x, k.x, sum))));
}

// Adds the products of eight elements of the queries and of the tile's keys to the scores.
void score_eight(uint e) {
    vec4 a[STEPS], b[STEPS];
    UNROLL (uint s = 0u; s < STEPS; s++) load_key(row[s], e, a[s], b[s]);
    UNROLL (uint h = 0u; h < HEADS; h++) {
        vec4 even = query(h, 2u * e), odd = query(h, 2u * e + 1u);
        UNROLL (uint s = 0u; s < STEPS; s++)
            score[h * STEPS + s] = add_products(odd, b[s], add_products(even, a[s], score[h * STEPS + s]));
    }
}

// Products of the queries with the keys of the tile's positions in [begin, end). The other lanes read the
// first or the last of these keys: before the window the page table may name pages of other sequences.
void score_tile(uint tile, uint begin, uint end) {
    UNROLL (uint s = 0u; s < STEPS; s++)
        row[s] = row_of_position(clamp(tile + s * LANES + LANE, begin, end - 1u));
    UNROLL (uint i = 0u; i < HEADS * STEPS; i++) score[i] = 0.0;
    if (USES_SHARED) {  // Intel's compiler would load many keys ahead, and spill them
        for (uint e = 0u; e < EIGHTS; e += ROUND)
            UNROLL (uint n = 0u; n < ROUND; n++) score_eight(e + n);
    } else {
        UNROLL (uint e = 0u; e < EIGHTS; e++) score_eight(e);
    }
}

// Turns scores into weights of the chunk's running softmax. Selections, not branches: on llvmpipe a branch
// costs a mask on everything that changes within.
void update_softmax(uint tile, uint begin, uint end) {
    UNROLL (uint h = 0u; h < HEADS; h++) {
        float largest = LOWEST;
        UNROLL (uint s = 0u; s < STEPS; s++) {
            uint at = tile + s * LANES + LANE;
            float here = scaled(score[h * STEPS + s]);
            score[h * STEPS + s] = at >= begin && at < end ? here : LOWEST;
            largest = max(largest, score[h * STEPS + s]);
        }
        float now = max(highest[h], group_max(largest)), shrink = exp(highest[h] - now);
        highest[h] = now;
        total[h] *= shrink;
        UNROLL (uint s = 0u; s < STEPS; s++) {
            uint at = tile + s * LANES + LANE;
            float weight = exp(score[h * STEPS + s] - now);
            score[h * STEPS + s] = at >= begin && at < end ? weight : 0.0;
            total[h] += score[h * STEPS + s];
        }
        UNROLL (uint c = 0u; c < LANE_EIGHTS; c++) {
            low[h * LANE_EIGHTS + c] *= shrink;
            high[h * LANE_EIGHTS + c] *= shrink;
        }
    }
}

// Adds the values of STRIDE of the tile's positions, number i.
void add_rows(uint s, uint i) {
    uint lane_row = STRIDE > 1u ? min(LANE / EIGHTS, STRIDE - 1u) : 0u;
    uint lane = i * STRIDE + lane_row, value_row = ROW(s, lane);
    float w[HEADS];
    UNROLL (uint h = 0u; h < HEADS; h++) w[h] = WEIGHT(h, s, lane);
    UNROLL (uint c = 0u; c < LANE_EIGHTS; c++) {
        vec4 a, b;
        load_value(value_row, eighth[c], a, b);
        UNROLL (uint h = 0u; h < HEADS; h++) {
            low[h * LANE_EIGHTS + c] = fma(vec4(w[h]), a, low[h * LANE_EIGHTS + c]);
            high[h * LANE_EIGHTS + c] = fma(vec4(w[h]), b, high[h * LANE_EIGHTS + c]);
        }
    }
}

void add_values() {
    UNROLL (uint s = 0u; s < STEPS; s++) {
        if (USES_SHARED) {
            for (uint i = 0u; i < LANES / STRIDE; i++) add_rows(s, i);
        } else {
            UNROLL (uint i = 0u; i < LANES / STRIDE; i++) add_rows(s, i);
        }
    }
}

// Eight neighboring elements of the current position's value, number eighth[c]. They are loaded when they are
// needed, so that no lane holds them until then.
void load_current_value(uint c, out vec4 a, out vec4 b);

// Adds the products of four elements of the queries and of the current key.
void multiply_current(uint j, inout float product[HEADS]) {
    vec4 key = query(CURRENT_KEY, j);
    UNROLL (uint h = 0u; h < HEADS; h++) product[h] = add_products(query(h, j), key, product[h]);
}

// The current position comes last. Every lane has its weight, and the first EIGHTS lanes add its value.
void add_current() {
    float product[HEADS], lane_weight[HEADS], shrink[HEADS];
    UNROLL (uint h = 0u; h < HEADS; h++) product[h] = 0.0;
    if (USES_SHARED) {
        for (uint j = 0u; j < FOURS; j++) multiply_current(j, product);
    } else {
        UNROLL (uint j = 0u; j < FOURS; j++) multiply_current(j, product);
    }
    UNROLL (uint h = 0u; h < HEADS; h++) {
        float here = scaled(product[h]), now = max(highest[h], here), weight = exp(here - now);
        shrink[h] = exp(highest[h] - now);
        highest[h] = now;
        total[h] = fma(total[h], shrink[h], LANE == 0u ? weight : 0.0);
        lane_weight[h] = STRIDE > 1u && LANE >= EIGHTS ? 0.0 : weight;
    }
    UNROLL (uint c = 0u; c < LANE_EIGHTS; c++) {
        vec4 a, b;
        load_current_value(c, a, b);
        UNROLL (uint h = 0u; h < HEADS; h++) {
            uint i = h * LANE_EIGHTS + c;
            low[i] = fma(vec4(lane_weight[h]), a, low[i] * shrink[h]);
            high[i] = fma(vec4(lane_weight[h]), b, high[i] * shrink[h]);
        }
    }
}

// The softmax of one chunk, from scratch.
void attend_to_chunk(uint chunk) {
    UNROLL (uint h = 0u; h < HEADS; h++) {
        highest[h] = LOWEST;
        total[h] = 0.0;
    }
    UNROLL (uint i = 0u; i < HEADS * LANE_EIGHTS; i++) low[i] = high[i] = vec4(0.0);
    uint begin = max(first_position, chunk * CHUNK), end = min(position, chunk * CHUNK + CHUNK);
    for (uint tile = begin / TILE * TILE; tile < end; tile += TILE) {
        score_tile(tile, begin, end);
        update_softmax(tile, begin, end);
        share_weights();
        add_values();
    }
    if (chunk == last_chunk) add_current();
}

uint part_start(uint h, uint chunk_of_token) {
    return ((token * heads + first_head + h) * max_chunks + chunk_of_token) * PART_FOURS;
}

// Stores a chunk's result in `parts` (SPLIT), or merges it into the result so far.
void finish_chunk(uint chunk) {
    UNROLL (uint h = 0u; h < HEADS; h++) {
        float sum = group_add(total[h]);
        vec2 factors = part_factors(all_highest[h], highest[h]);
        uint part = part_start(h, chunk - first_chunk);
        UNROLL (uint c = 0u; c < LANE_EIGHTS; c++) {
            uint i = h * LANE_EIGHTS + c, e = c * LANES + LANE;
            if (STRIDE > 1u) {  // LANE_EIGHTS is 1: the first lanes add up the values of the others
                vec4 lane_low = low[i], lane_high = high[i];
                UNROLL (uint other = 1u; other < STRIDE; other++) {
                    low[i] += group_broadcast(lane_low, (LANE + other * EIGHTS) % LANES);
                    high[i] += group_broadcast(lane_high, (LANE + other * EIGHTS) % LANES);
                }
            }
            if (!SPLIT) {
                set_all(i, merge(all_low_of(i), low[i], factors), merge(all_high_of(i), high[i], factors));
            } else if (e < EIGHTS) {
                parts[part + 2u * e] = low[i];
                parts[part + 2u * e + 1u] = high[i];
            }
        }
        if (SPLIT && LANE == 0u) parts[part + FOURS].xy = vec2(highest[h], sum);
        all_total[h] = merge(all_total[h], sum, factors);
        all_highest[h] = max(all_highest[h], highest[h]);
    }
}

// Counts this group as finished. True for the token's last group to finish, which also resets the counter to
// 0.
bool is_last_group() {
    uint counter = token * gl_NumWorkGroups.x + gl_WorkGroupID.x, num_before = 0u;
    uint num_groups = min(last_chunk - first_chunk + 1u, gl_NumWorkGroups.z);
    group_memory_barrier();
    if (LANE == 0u) num_before = atomicAdd(num_done[counter], 1u);
    num_before = group_broadcast_uint(num_before, 0u);
    if (num_before + 1u < num_groups) return false;
    group_memory_barrier();
    if (LANE == 0u) num_done[counter] = 0u;  // for the next dispatch: in this one no group is left to count
    return true;
}

// The sum of a head's weights. A sink takes part in the softmax like a position whose value is zero.
float denominator(uint h, float largest, float sum) {
    return HAS_SINKS ? sum + exp(sinks[first_head + h] - largest) : sum;
}

void merge_parts() {
    UNROLL (uint h = 0u; h < HEADS; h++) {
        float merged_highest = LOWEST, merged_total = 0.0;
        vec4 sums[LANE_FOURS];
        UNROLL (uint i = 0u; i < LANE_FOURS; i++) sums[i] = vec4(0.0);
        for (uint chunk = 0u; chunk <= last_chunk - first_chunk; chunk++) {
            uint part = part_start(h, chunk);
            vec2 highest_and_total = parts[part + FOURS].xy;
            vec2 factors = part_factors(merged_highest, highest_and_total.x);
            UNROLL (uint i = 0u; i < LANE_FOURS; i++)
                sums[i] = merge(sums[i], parts[part + min(i * LANES + LANE, FOURS - 1u)], factors);
            merged_total = merge(merged_total, highest_and_total.y, factors);
            merged_highest = max(merged_highest, highest_and_total.x);
        }
        float divisor = denominator(h, merged_highest, merged_total);
        UNROLL (uint i = 0u; i < LANE_FOURS; i++) {
            uint four = i * LANES + LANE;
            if (four < FOURS) y[(token * heads + first_head + h) * FOURS + four] = sums[i] / divisor;
        }
    }
}

void store_result() {
    UNROLL (uint h = 0u; h < HEADS; h++) {
        uint y_row = (token * heads + first_head + h) * FOURS;
        float divisor = denominator(h, all_highest[h], all_total[h]);
        UNROLL (uint c = 0u; c < LANE_EIGHTS; c++) {
            uint e = c * LANES + LANE;
            if (e >= EIGHTS) continue;
            y[y_row + 2u * e] = all_low_of(h * LANE_EIGHTS + c) / divisor;
            y[y_row + 2u * e + 1u] = all_high_of(h * LANE_EIGHTS + c) / divisor;
        }
    }
}

// Processes the chunks of this group. The output is written by the token's only group, or (SPLIT) by its last
// one to finish.
void attend() {
    UNROLL (uint h = 0u; h < HEADS; h++) {
        all_highest[h] = LOWEST;
        all_total[h] = 0.0;
    }
    UNROLL (uint i = 0u; i < HEADS * LANE_EIGHTS; i++) set_all(i, vec4(0.0), vec4(0.0));
    for (uint chunk = first_chunk + gl_WorkGroupID.z; chunk <= last_chunk; chunk += gl_NumWorkGroups.z) {
        attend_to_chunk(chunk);
        finish_chunk(chunk);
    }
    if (!SPLIT)
        store_result();
    else if (is_last_group())
        merge_parts();
}
