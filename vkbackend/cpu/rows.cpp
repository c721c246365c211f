// Kernels that work on each row alone: norms, activations, what follows a product.
#include "kernels.h"
#include "variant.h"
#include "simd.h"

namespace vkbackend_cpu::VARIANT {

// Share of a thread in rows * pieces units of work: calls f(row, first element, end). Rows are cut at multiples of 512
// elements, so that a single row occupies all threads; use it only where elements do not depend on each other.
template <class F>
static void share(int64_t rows, int64_t width, int task, int tasks, F f) {
    const int64_t piece = 512, pieces = (width + piece - 1) / piece;
    for (int64_t unit = task; unit < rows * pieces; unit += tasks) {
        int64_t first = unit % pieces * piece;
        f(unit / pieces, first, first + piece < width ? first + piece : width);
    }
}

void rms_norm(const NormArgs& args, int task, int tasks) {
    const int64_t runs = args.x.width / args.size;
    for (int64_t at = task; at < args.x.count * runs; at += tasks) {
        const int64_t row = at / runs, column = at % runs * args.size;
        const float* x = args.x.row(row) + column;
        const float* residual = args.residual.data ? args.residual.row(row) + column : nullptr;
        float* y = args.y.row(row) + column;
        v8 squares = splat(0);
        eights(args.size, [&](int64_t i, int count) {
            v8 each = load_some(x + i, count);
            squares = fma8(each, each, squares);
        });
        const float rms = std::sqrt(sum(squares) / float(args.size) + args.eps);
        eights(args.size, [&](int64_t i, int count) {
            v8 each = load_some(x + i, count) / rms * load_some(args.weight + i, count);
            if (residual) each += load_some(residual + i, count);
            store_some(y + i, each, count);
        });
    }
}

void layer_norm(const LayerNormArgs& args, int task, int tasks) {
    const int64_t runs = args.x.width / args.size;
    const float count = float(args.size - args.padding);
    for (int64_t at = task; at < args.x.count * runs; at += tasks) {
        const int64_t row = at / runs, run = at % runs, column = run * args.size;
        const float* x = args.x.row(row) + column;
        const float* residual = args.residual.data ? args.residual.row(row) + column : nullptr;
        const float* weight = args.weight + run * args.weight_stride;
        const float* bias = args.bias ? args.bias + run * args.weight_stride : nullptr;
        float* y = args.y.row(row) + column;
        v8 total = splat(0), squares = splat(0);
        eights(args.size, [&](int64_t i, int some) { total += load_some(x + i, some); });
        const float mean = sum(total) / count;
        eights(args.size, [&](int64_t i, int some) {
            v8 each = load_some(x + i, some) - mean;
            squares = fma8(each, each, squares);
        });
        // Each zero of the padding added mean^2, and so did those after the last element in the last eight.
        const int64_t zeros = args.padding + (8 - args.size % 8) % 8;
        const float sum_of_squares = sum(squares) - float(zeros) * mean * mean;
        const float deviation = std::sqrt((sum_of_squares > 0 ? sum_of_squares : 0.0f) / count + args.eps);
        eights(args.size, [&](int64_t i, int some) {
            v8 each = (load_some(x + i, some) - mean) / deviation * load_some(weight + i, some);
            if (bias) each += load_some(bias + i, some);
            if (residual) each += load_some(residual + i, some);
            store_some(y + i, each, some);
        });
    }
}

static v8 applied(Activation kind, v8 x) {
    if (kind == Activation::GELU_TANH) return gelu8(x);
    if (kind == Activation::GELU_ERF) return gelu_erf8(x);
    v8 positive = max8(x, splat(0));
    return positive * positive;
}

void activation(const ActivationArgs& args, int task, int tasks) {
    share(args.y.count, args.y.width, task, tasks, [&](int64_t row, int64_t first, int64_t end) {
        eights(end - first, [&](int64_t i, int count) {
            v8 x = load_some(args.x.row(row) + first + i, count);
            store_some(args.y.row(row) + first + i, applied(args.kind, x), count);
        });
    });
}

static v8 activated(Gate kind, v8 x) { return kind == Gate::SILU ? silu8(x) : gelu8(x); }

void finish(const FinishArgs& args, int task, int tasks) {
    const int64_t width = args.y.width;
    share(args.x.count, width, task, tasks, [&](int64_t row, int64_t first, int64_t end) {
        const float* x = args.x.row(row);
        const float* residual = args.residual.data ? args.residual.row(row) : nullptr;
        float* y = args.y.row(row);
        eights(end - first, [&](int64_t i, int count) {
            const int64_t at = first + i;
            v8 each = load_some(x + at, count);
            if (args.bias) each += load_some(args.bias + at, count);
            if (args.gate != Gate::NONE) {
                v8 up = load_some(x + width + at, count);
                if (args.bias) up += load_some(args.bias + width + at, count);
                each = activated(args.gate, each) * up;
            }
            if (residual) each += load_some(residual + at, count);
            store_some(y + at, each, count);
        });
    });
}

void gate(const GateArgs& args, int task, int tasks) {
    share(args.y.count, args.y.width, task, tasks, [&](int64_t row, int64_t first, int64_t end) {
        eights(end - first, [&](int64_t i, int count) {
            v8 x = load_some(args.gate.row(row) + first + i, count);
            v8 up = load_some(args.up.row(row) + first + i, count);
            store_some(args.y.row(row) + first + i, activated(args.kind, x) * up, count);
        });
    });
}

void softcap(const SoftcapArgs& args, int task, int tasks) {
    share(args.y.count, args.y.width, task, tasks, [&](int64_t row, int64_t first, int64_t end) {
        eights(end - first, [&](int64_t i, int count) {
            v8 x = load_some(args.x.row(row) + first + i, count);
            store_some(args.y.row(row) + first + i, args.cap * tanh8(x / args.cap), count);
        });
    });
}

void gather(const GatherArgs& args, int task, int tasks) {
    for (int64_t at = task; at < args.y.count; at += tasks) {
        const int64_t bytes = args.y.width * int64_t(sizeof(float));
        if (args.rows[at] < 0)
            std::memset(args.y.row(at), 0, bytes);
        else
            std::memcpy(args.y.row(at), args.x.row(args.rows[at]), bytes);
    }
}

static const int64_t STRIP_BLOCK = 4096;  // logits of 64 strips: ops/top_k.py

// One block of a row: strip i holds elements 256 j + 4 i ... + 3.
static void strips_of_block(const float* logits, int64_t count, float lowest, float* out) {
    float padded[STRIP_BLOCK], most[256], total[256];
    if (count < STRIP_BLOCK) {
        std::memcpy(padded, logits, count * sizeof(float));
        for (int64_t i = count; i < STRIP_BLOCK; ++i) padded[i] = lowest;
        logits = padded;
    }
    for (int i = 0; i < 256; i += 8) {
        v8 found = splat(lowest);
        for (int j = 0; j < 16; ++j) found = max8(load(logits + 256 * j + i), found);
        store(most + i, found);
    }
    for (int i = 0; i < 256; i += 4) {
        float highest = lowest;
        for (int c = 0; c < 4; ++c) highest = most[i + c] > highest ? most[i + c] : highest;
        for (int c = 0; c < 4; ++c) most[i + c] = highest;
    }
    for (int i = 0; i < 256; i += 8) {
        v8 highest = load(most + i), added = splat(0);
        for (int j = 0; j < 16; ++j) added += exp8(load(logits + 256 * j + i) - highest);
        store(total + i, added);
    }
    for (int i = 0; i < 64; ++i) {
        const float* four = total + 4 * i;
        out[2 * i] = most[4 * i];
        out[2 * i + 1] = most[4 * i] > lowest ? (four[0] + four[1]) + (four[2] + four[3]) : 0.0f;
    }
}

void strips(const StripsArgs& args, int task, int tasks) {
    const float lowest = -3.0e38f;
    const int64_t width = args.logits.width, blocks = (width + STRIP_BLOCK - 1) / STRIP_BLOCK;
    for (int64_t at = task; at < args.logits.count * blocks; at += tasks) {
        const int64_t row = at / blocks, first = at % blocks * STRIP_BLOCK;
        const int64_t count = width - first < STRIP_BLOCK ? width - first : STRIP_BLOCK;
        strips_of_block(args.logits.row(row) + first, count, lowest,
                        args.strips.row(row) + at % blocks * 128);
    }
}

}  // namespace vkbackend_cpu::VARIANT

namespace vkbackend_cpu {

const Kernels& KERNELS() {
    static constexpr Kernels table = {VARIANT::rms_norm,  VARIANT::layer_norm, VARIANT::activation,
                                      VARIANT::finish,    VARIANT::gate,       VARIANT::softcap,
                                      VARIANT::gather,    VARIANT::rotation,   VARIANT::split_heads,
                                      VARIANT::attention, VARIANT::strips,     VARIANT::find_product};
    return table;
}

}  // namespace vkbackend_cpu
