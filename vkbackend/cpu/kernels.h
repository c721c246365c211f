// The kernels of vkbackend._cpu and their arguments.
//
// Every kernel is called by all threads of a graph, each with its number `task` of `tasks`, and takes its share of
// the rows. The bits of a row depend neither on the other rows nor on the number of tasks: each row has one order of
// sums. The sources are compiled once for every CPU and once for CPUs with AVX2, FMA and F16C (CMakeLists.txt);
// pointers and sizes were checked by module.cpp.
#pragma once
#include <atomic>
#include <cstdint>

namespace vkbackend_cpu {

// Rows of floats; the elements of a row are contiguous. data is null for an argument that was left out.
struct Rows {
    float* data;
    int64_t count;
    int64_t width;
    int64_t stride;  // elements from one row to the next

    float* row(int64_t at) const { return data + at * stride; }
};

const int64_t MAX_HEAD_DIM = 1024;

enum class Element { F32, F16, Q8 };

// Keys or values of a layer, (pages, page_size, kv_heads, head_dim). scales: of Q8, f16, one per 32 elements.
struct Cache {
    Element type;
    void* data;
    uint16_t* scales;
    int64_t num_pages, page_size, kv_heads, head_dim;

    int64_t offset(int64_t page, int64_t slot, int64_t head) const {
        return ((page * page_size + slot) * kv_heads + head) * head_dim;
    }
};

// Where the tokens of a step are. positions: -1 for an unused slot.
struct Tokens {
    const int32_t* positions;
    const int32_t* sequences;
    const int32_t* page_table;
    int64_t count, pages_per_sequence;

    const int32_t* pages(int64_t token) const { return page_table + sequences[token] * pages_per_sequence; }
};

// y = x / rms(x) * weight [+ residual], over runs of `size` elements of each row.
struct NormArgs {
    Rows x, residual, y;
    const float* weight;
    int64_t size;
    float eps;
};

// y = (x - mean(x)) / deviation(x) * weight [+ bias] [+ residual], over runs of `size` elements of each row, of which
// `padding` are zeros that do not count. weight_stride: from the weights of one run to those of the next. y may be x.
struct LayerNormArgs {
    Rows x, residual, y;
    const float *weight, *bias;
    int64_t size, padding, weight_stride;
    float eps;
};

enum class Gate { NONE, SILU, GELU };

// y = [act(x's first half) * x's second half of] (x [+ bias]) [+ residual]; y may be x.
struct FinishArgs {
    Rows x, residual, y;
    const float* bias;
    Gate gate;
};

// y = act(gate) * up
struct GateArgs {
    Rows gate, up, y;
    Gate kind;
};

enum class Activation { GELU_TANH, GELU_ERF, RELU_SQUARED };

// y = act(x)
struct ActivationArgs {
    Rows x, y;
    Activation kind;
};

// y = cap * tanh(x / cap)
struct SoftcapArgs {
    Rows x, y;
    float cap;
};

// y[m] = x[rows[m]], zeros where rows[m] is negative.
struct GatherArgs {
    Rows x, y;
    const int32_t* rows;
};

// Cosine and sine of each token and pair: y (T, 2 * pairs), first the cosines. positions: (T, num_axes); axes: the
// axis of each pair, null for the first.
struct RotationArgs {
    const int32_t* positions;
    int64_t num_axes;
    const int32_t* axes;
    const float* turns;
    Rows y;
};

// Normalizes and rotates queries and keys (norm_last: in the other order), stores keys and values. x: (T, (heads + 2 kv_heads) * head_dim).
struct SplitArgs {
    Rows x, rotation, q;
    const float *q_norm, *k_norm;
    Tokens tokens;
    Cache k_cache, v_cache;
    int64_t heads, n_rot;
    bool adjacent, norm_last;
    float eps;
};

// limits: the last position that each token sees, or null. sinks: a score of each head whose value is zero, or null.
struct AttentionArgs {
    Rows q, y;
    Cache k_cache, v_cache;
    Tokens tokens;
    const int32_t* limits;
    const float* sinks;
    int64_t heads, window;
    float scale, softcap;
};

// Maximum and sum of exponentials of each strip of 64 logits; strips: (M, num_strips * 2).
struct StripsArgs {
    Rows logits, strips;
};

// What is left of ops/top_k.py after the strips.
struct CandidatesArgs {
    Rows logits, strips, stats;
    int32_t *counts, *ids;
    float* values;
    int64_t capacity, k;
};

// Rounds x to 8 bits, as the kernel of a product reads it (products.h).
struct QuantizeArgs {
    Rows x;
    uint8_t* codes;
};

// How many chunks of a product threads have taken, and how many threads have finished.
struct Progress {
    std::atomic<int64_t> taken{0}, finished{0};
};

// y (T, N) = activations (T, k) of 8 bits times weights (N, k) transposed.
struct ProductArgs {
    const uint8_t* weights;
    const uint8_t* codes;
    int64_t k;
    Rows y;
    Progress* progress;
};

// The kernels for a format of weights. type: ggml's number of it. block_size, block_bytes: of the weights;
// group_size, group_bytes: of the activations, whose rows end with a whole group.
struct ProductKernel {
    int type, block_size, block_bytes, group_size, group_bytes;
    void (*quantize)(const QuantizeArgs&, int task, int tasks);
    void (*multiply)(const ProductArgs&, int task, int tasks);
};

struct Kernels {
    void (*rms_norm)(const NormArgs&, int task, int tasks);
    void (*layer_norm)(const LayerNormArgs&, int task, int tasks);
    void (*activation)(const ActivationArgs&, int task, int tasks);
    void (*finish)(const FinishArgs&, int task, int tasks);
    void (*gate)(const GateArgs&, int task, int tasks);
    void (*softcap)(const SoftcapArgs&, int task, int tasks);
    void (*gather)(const GatherArgs&, int task, int tasks);
    void (*rotation)(const RotationArgs&, int task, int tasks);
    void (*split_heads)(const SplitArgs&, int task, int tasks);
    void (*attention)(const AttentionArgs&, int task, int tasks);
    void (*strips)(const StripsArgs&, int task, int tasks);
    const ProductKernel* (*find_product)(int type);  // returns null for a format without a kernel
};

const Kernels& base_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();

void find_candidates(const CandidatesArgs&, int task, int tasks);  // the same for every CPU

}  // namespace vkbackend_cpu
