// Attention over the paged cache (ops/attention.py): a running softmax over chunks of CHUNK positions.
//
// A unit of work is R query heads of one token that share a key-value head; R is chosen from the model's heads alone,
// since it decides the order of sums. Chunks begin at the first position that the token sees.
#include "kernels.h"
#include "variant.h"
#include "simd.h"

namespace vkbackend_cpu::VARIANT {

static const int CHUNK = 256;

template <Element E>
static v8 load_cell(const Cache& cache, int64_t at) {
    if constexpr (E == Element::F32) return load((const float*)cache.data + at);
    if constexpr (E == Element::F16) return load_half((const uint16_t*)cache.data + at);
    return load_bytes((const int8_t*)cache.data + at) * half_to_float(cache.scales[at / 32]);
}

// The running softmax of R rows: maximum, sum of exponentials and weighted values so far.
template <int R>
struct State {
    float most[R], total[R];
    float mixed[R * MAX_HEAD_DIM];
};

// Scores of R rows at `count` positions: scores[position * R + row]. offsets: of the positions' keys in the cache.
template <int R, Element E>
static void score(const AttentionArgs& args, const float* q, const int64_t* offsets, int count,
                  float* scores) {
    constexpr int P = 8 / R;  // positions at a time
    const int64_t size = args.k_cache.head_dim;
    for (int first = 0; first < count; first += P) {
        v8 each[8];
        for (int i = 0; i < 8; ++i) each[i] = splat(0);
        int64_t at[P];
        for (int p = 0; p < P; ++p) at[p] = offsets[first + p < count ? first + p : count - 1];
        for (int64_t d = 0; d < size; d += 8)
            for (int p = 0; p < P; ++p) {
                v8 key = load_cell<E>(args.k_cache, at[p] + d);
                for (int r = 0; r < R; ++r)
                    each[p * R + r] = fma8(load(q + r * size + d), key, each[p * R + r]);
            }
        v8 found = sums(each);
        if (args.softcap > 0) found = args.softcap * tanh8(found / args.softcap);
        store(scores + first * R, found);
    }
}

// Adds the values of one chunk: N vectors of each row at a time.
template <int R, Element E, int N>
static void mix(const Cache& values, const int64_t* offsets, int count, const float* weights,
                const float* decay, int64_t first, float* mixed) {
    const int64_t size = values.head_dim;
    v8 each[R * N];
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) each[r * N + n] = load(mixed + r * size + first + 8 * n) * decay[r];
    for (int p = 0; p < count; ++p)
        for (int n = 0; n < N; ++n) {
            v8 value = load_cell<E>(values, offsets[p] + first + 8 * n);
            for (int r = 0; r < R; ++r)
                each[r * N + n] = fma8(splat(weights[p * R + r]), value, each[r * N + n]);
        }
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) store(mixed + r * size + first + 8 * n, each[r * N + n]);
}

// Turns scores into weights relative to the new maximum. Returns in `decay` the factor for what was summed before.
template <int R>
static void weigh(int count, float* scores, State<R>& state, float* decay) {
    const int filled = (count * R + 7) / 8 * 8;
    for (int i = count * R; i < filled; ++i) scores[i] = -INFINITY;
    v8 highest = splat(-INFINITY);
    for (int i = 0; i < filled; i += 8) highest = max8(load(scores + i), highest);
    v8 by_lane;
    for (int r = 0; r < R; ++r) {
        float most = state.most[r];
        for (int i = r; i < 8; i += R) most = highest[i] > most ? highest[i] : most;
        decay[r] = exp1(state.most[r] - most);
        state.most[r] = most;
        for (int i = r; i < 8; i += R) by_lane[i] = most;
    }
    v8 added = splat(0);
    for (int i = 0; i < filled; i += 8) {
        v8 weight = exp8(load(scores + i) - by_lane);
        store(scores + i, weight);
        added += weight;
    }
    for (int r = 0; r < R; ++r) {
        float sum = 0;
        for (int i = r; i < 8; i += R) sum += added[i];
        state.total[r] = state.total[r] * decay[r] + sum;
    }
}

template <int R, Element E>
static void attend(const AttentionArgs& args, int64_t token, int64_t kv_head, const float* q,
                   State<R>& state) {
    constexpr int N = 8 / R;
    const int64_t position = args.tokens.positions[token], size = args.k_cache.head_dim;
    const int64_t last = args.limits ? args.limits[token] : position, page_size = args.k_cache.page_size;
    const int64_t first = args.window && position + 1 > args.window ? position + 1 - args.window : 0;
    const int32_t* pages = args.tokens.pages(token);
    for (int r = 0; r < R; ++r) state.most[r] = -INFINITY, state.total[r] = 0;
    for (int64_t i = 0; i < R * size; ++i) state.mixed[i] = 0;
    for (int64_t begin = first; begin <= last; begin += CHUNK) {
        int64_t offsets[CHUNK];
        float scores[CHUNK * R], decay[R];
        const int count = int(last + 1 - begin < CHUNK ? last + 1 - begin : CHUNK);
        for (int p = 0; p < count; ++p)
            offsets[p] =
                args.k_cache.offset(pages[(begin + p) / page_size], (begin + p) % page_size, kv_head);
        score<R, E>(args, q, offsets, count, scores);
        weigh<R>(count, scores, state, decay);
        int64_t d = 0;
        for (; d + 8 * N <= size; d += 8 * N)
            mix<R, E, N>(args.v_cache, offsets, count, scores, decay, d, state.mixed);
        for (; d < size; d += 8) mix<R, E, 1>(args.v_cache, offsets, count, scores, decay, d, state.mixed);
    }
}

template <int R, Element E>
static void run(const AttentionArgs& args, int task, int tasks) {
    const int64_t size = args.k_cache.head_dim, kv_heads = args.k_cache.kv_heads,
                  group = args.heads / kv_heads;
    const int64_t tiles = (group + R - 1) / R;
    float q[R * MAX_HEAD_DIM];
    State<R> state;
    for (int64_t unit = task; unit < args.tokens.count * kv_heads * tiles; unit += tasks) {
        const int64_t token = unit / (kv_heads * tiles), kv_head = unit / tiles % kv_heads;
        const int64_t first = kv_head * group + unit % tiles * R;
        const int64_t rows = (kv_head + 1) * group - first < R ? (kv_head + 1) * group - first : R;
        if (args.tokens.positions[token] < 0) continue;
        for (int64_t r = 0; r < R; ++r)
            for (int64_t d = 0; d < size; d += 8)  // the last row again where there are fewer than R
                store(q + r * size + d,
                      load(args.q.row(token) + (first + (r < rows ? r : rows - 1)) * size + d) * args.scale);
        attend<R, E>(args, token, kv_head, q, state);
        for (int64_t r = 0; r < rows && args.sinks; ++r)
            state.total[r] += exp1(args.sinks[first + r] - state.most[r]);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t d = 0; d < size; d += 8)
                store(args.y.row(token) + (first + r) * size + d,
                      load(state.mixed + r * size + d) / state.total[r]);
    }
}

// Four heads share each key that is read, unless that leaves fewer than four units of work per token.
static int heads_together(int64_t heads, int64_t kv_heads) {
    const int64_t group = heads / kv_heads;
    int together = group == 1 ? 1 : group == 2 ? 2 : 4;
    while (together > 1 && kv_heads * ((group + together - 1) / together) < 4) together /= 2;
    return together;
}

template <int R>
static void run_on(const AttentionArgs& args, int task, int tasks) {
    if (args.k_cache.type == Element::F32)
        run<R, Element::F32>(args, task, tasks);
    else if (args.k_cache.type == Element::F16)
        run<R, Element::F16>(args, task, tasks);
    else
        run<R, Element::Q8>(args, task, tasks);
}

void attention(const AttentionArgs& args, int task, int tasks) {
    const int together = heads_together(args.heads, args.k_cache.kv_heads);
    if (together == 4)
        run_on<4>(args, task, tasks);
    else if (together == 2)
        run_on<2>(args, task, tasks);
    else
        run_on<1>(args, task, tasks);
}

}  // namespace vkbackend_cpu::VARIANT
