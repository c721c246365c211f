// Rotation, and what happens to the rows of projections before attention (ops/split_heads.py).
#include "kernels.h"
#include "variant.h"
#include "simd.h"

namespace vkbackend_cpu::VARIANT {

static const int64_t BLOCK = 32;  // elements of a q8_0 cache that share a scale

// Angles are computed in f64, as by the numpy reference.
void rotation(const RotationArgs& args, int task, int tasks) {
    const int64_t pairs = args.y.width / 2;
    for (int64_t at = task; at < args.y.count * pairs; at += tasks) {
        const int64_t token = at / pairs, pair = at % pairs;
        const int32_t position = args.positions[token * args.num_axes + (args.axes ? args.axes[pair] : 0)];
        const double turns = double(args.turns[pair]) + double(args.turns[pairs + pair]);
        const double angle = 2 * M_PI * (position > 0 ? position : 0) * turns;
        const double magnitude = args.turns[2 * pairs];
        args.y.row(token)[pair] = float(magnitude * std::cos(angle));
        args.y.row(token)[pairs + pair] = float(magnitude * std::sin(angle));
    }
}

static void normalized(const float* x, const float* weight, int64_t size, float eps, float* y) {
    v8 squares = splat(0);
    eights(size, [&](int64_t i, int count) {
        v8 each = load_some(x + i, count);
        squares = fma8(each, each, squares);
    });
    const float rms = std::sqrt(sum(squares) / float(size) + eps);
    eights(size, [&](int64_t i, int count) {
        store_some(y + i, load_some(x + i, count) / rms * load_some(weight + i, count), count);
    });
}

static void rotate(float* x, const float* rotation, int64_t n_rot, bool adjacent) {
    const int64_t pairs = n_rot / 2;
    for (int64_t pair = 0; pair < pairs; ++pair) {
        float& a = x[adjacent ? 2 * pair : pair];
        float& b = x[adjacent ? 2 * pair + 1 : pair + pairs];
        const float cos = rotation[pair], sin = rotation[pairs + pair], old = a;
        a = old * cos - b * sin;
        b = old * sin + b * cos;
    }
}

// Codes from -127 to 127, halves rounded away from zero (ops/q8_cache.py).
static void store_codes(const float* x, int64_t size, int8_t* codes, uint16_t* scales) {
    for (int64_t block = 0; block < size / BLOCK; ++block) {
        float largest = 0;
        for (int64_t i = block * BLOCK; i < (block + 1) * BLOCK; ++i) {
            const float magnitude = std::fabs(x[i]);
            largest = magnitude > largest ? magnitude : largest;
        }
        const float unit = largest / 127.0f, inverse = unit > 0 ? 1.0f / unit : 0.0f;
        for (int64_t i = block * BLOCK; i < (block + 1) * BLOCK; ++i) {
            const float wanted = x[i] * inverse, size = std::fabs(wanted), whole = std::floor(size);
            const float rounded = whole + std::floor(2 * (size - whole));
            codes[i] = int8_t(wanted < 0 ? -rounded : rounded);
        }
        scales[block] = float_to_half(unit);
    }
}

static void store_cell(const Cache& cache, int64_t page, int64_t slot, int64_t head, const float* x) {
    const int64_t offset = cache.offset(page, slot, head), size = cache.head_dim;
    if (cache.type == Element::F32)
        std::memcpy((float*)cache.data + offset, x, size * sizeof(float));
    else if (cache.type == Element::F16)
        for (int64_t i = 0; i < size; ++i) ((uint16_t*)cache.data)[offset + i] = float_to_half(x[i]);
    else
        store_codes(x, size, (int8_t*)cache.data + offset, cache.scales + offset / BLOCK);
}

void split_heads(const SplitArgs& args, int task, int tasks) {
    const int64_t size = args.k_cache.head_dim, kv_heads = args.k_cache.kv_heads,
                  keys = args.heads + kv_heads;
    const int64_t all = keys + kv_heads, page_size = args.k_cache.page_size;
    float scratch[MAX_HEAD_DIM];
    for (int64_t at = task; at < args.tokens.count * all; at += tasks) {
        const int64_t token = at / all, head = at % all, position = args.tokens.positions[token];
        if (position < 0) continue;
        const float* x = args.x.row(token) + head * size;
        const int64_t page = args.tokens.pages(token)[position / page_size], slot = position % page_size;
        if (head >= keys) {
            store_cell(args.v_cache, page, slot, head - keys, x);
            continue;
        }
        float* y = head < args.heads ? args.q.row(token) + head * size : scratch;
        const float* norm = head < args.heads ? args.q_norm : args.k_norm;
        if (norm && !args.norm_last)
            normalized(x, norm, size, args.eps, y);
        else
            std::memcpy(y, x, size * sizeof(float));
        rotate(y, args.rotation.row(token), args.n_rot, args.adjacent);
        if (norm && args.norm_last) normalized(y, norm, size, args.eps, y);
        if (head >= args.heads) store_cell(args.k_cache, page, slot, head - args.heads, y);
    }
}

}  // namespace vkbackend_cpu::VARIANT
