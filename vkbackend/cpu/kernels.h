// The kernels of vkbackend._cpu and their arguments.
//
// Every kernel is called by all threads of a graph, each with its number `task` of `tasks`, and takes its share of
// the rows. The bits of a row depend neither on the other rows nor on the number of tasks: each row has one order of
// sums. The sources are compiled once for every CPU and once for CPUs with AVX2, FMA and F16C (CMakeLists.txt);
// pointers and sizes were checked by module.cpp.
#pragma once
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

const int64_t MAX_HEAD_DIM = 512;

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

// Normalizes and rotates queries and keys, stores keys and values. x: (T, (heads + 2 kv_heads) * head_dim).
struct SplitArgs {
    Rows x, rotation, q;
    const float *q_norm, *k_norm;
    Tokens tokens;
    Cache k_cache, v_cache;
    int64_t heads, n_rot;
    bool adjacent;
    float eps;
};

// limits: the last position that each token sees, or null.
struct AttentionArgs {
    Rows q, y;
    Cache k_cache, v_cache;
    Tokens tokens;
    const int32_t* limits;
    int64_t heads, window;
    float scale, softcap;
};

// Maximum and sum of exponentials of each strip of 64 logits; strips: (M, num_strips * 2).
struct StripsArgs {
    Rows logits, strips;
};

struct Kernels {
    void (*rms_norm)(const NormArgs&, int task, int tasks);
    void (*finish)(const FinishArgs&, int task, int tasks);
    void (*gate)(const GateArgs&, int task, int tasks);
    void (*softcap)(const SoftcapArgs&, int task, int tasks);
    void (*gather)(const GatherArgs&, int task, int tasks);
    void (*rotation)(const RotationArgs&, int task, int tasks);
    void (*split_heads)(const SplitArgs&, int task, int tasks);
    void (*attention)(const AttentionArgs&, int task, int tasks);
    void (*strips)(const StripsArgs&, int task, int tasks);
};

const Kernels& base_kernels();
const Kernels& avx2_kernels();

}  // namespace vkbackend_cpu
