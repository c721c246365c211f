// Shared by the matrix product kernels: bindings, push constants, rows of gated weights, and the output
// stage.
//
// TEXEL: x, norm and the planes of the weight are uniform texel buffers (see common.glsl).
layout(constant_id = 1) const uint GATE_ROWS = 8;  // neighboring rows of the gate, then of up
layout(constant_id = 2) const bool HAS_NORM = false;
layout(constant_id = 3) const uint GATE = 0;  // one of GATE_* in activation.glsl
layout(constant_id = 5) const bool HAS_BIAS = false;
layout(constant_id = 7) const uint PAIRS = 0;  // one of PAIRS_*

#ifdef TEXEL
layout(binding = 0) uniform samplerBuffer x;     // (tokens, K), four activations a texel
layout(binding = 3) uniform samplerBuffer norm;  // (K); bound to x if there is none
#define X4(i) texelFetch(x, int(i))
#define NORM4(i) texelFetch(norm, int(i))
#else
layout(std430, binding = 0) readonly restrict buffer X { vec4 x[]; };
layout(std430, binding = 3) readonly restrict buffer Norm { vec4 norm[]; };
#define X4(i) x[i]
#define NORM4(i) norm[i]
#endif
#define QUANTS_BINDING 1
#define SCALES_BINDING 2
#include "quant/format.glsl"
#include "activation.glsl"
// (tokens, N); bound to y if there is none
layout(std430, binding = 4) readonly buffer Residual { float residual[]; };
layout(std430, binding = 5) readonly buffer Bias { float bias[]; };  // (N); bound to y if there is none
// With PAIRS: the expert of each pair, and the pairs in order (vkbackend/ops/pairs_by_expert.py).
layout(std430, binding = 6) readonly buffer Experts { int expert_of[]; };
layout(std430, binding = 7) readonly buffer Order { int order[]; };
layout(std430, binding = 8) writeonly buffer Y { float y[]; };  // (tokens, N)

layout(push_constant) uniform Push {
    uint num_tokens, num_rows, num_blocks;  // rows as packed
    uint num_outputs;                       // columns of y
    uint x_offset, x_stride;                // in fours
    uint y_offset, y_stride;
    uint residual_offset, residual_stride;  // stride 0: no residual
    uint bias_offset, up_bias_offset;       // of a gated weight: the gate's, and up's
    float eps;
    // With PAIRS. num_rows are those of num_experts experts, num_outputs those of one.
    uint first_slot, num_pairs;
    uint pairs_per_row;  // row of x = pair / pairs_per_row
    uint first_expert, num_experts;
};

// What a "token" of a kernel is: a row of x; or with a weight that holds the rows of many experts, a pair of
// a token and an expert, which is a row of y. Neighbors in order share an expert, as far as a tile reaches.
const uint PAIRS_NONE = 0u, PAIRS_ALL = 1u, PAIRS_ORDERED = 2u;  // PAIRS in vkbackend/ops/expert_matmul.py
uint expert_column = 0u;  // of the workgroup's expert, among all columns

const uint STEP = GATE != GATE_NONE ? 2u : 1u;  // rows of the weight per column of y

// The packed row at `place` where rows of the gate and of up alternate, so that neighbors hold both halves of
// an output.
uint row_at(uint place) {
    uint pair = place / 2u;
    return GATE == GATE_NONE
               ? place
               : (pair / GATE_ROWS) * 2u * GATE_ROWS + pair % GATE_ROWS + (place % 2u) * GATE_ROWS;
}

// The pair that a kernel takes for its token; negative: none.
int pair_at(uint token) {
    if (token >= num_tokens) return -1;
    int pair = int(first_slot + token);
    if (PAIRS == PAIRS_ORDERED) pair = order[pair];
    return uint(pair) < num_pairs ? pair : -1;
}

// Finds the expert of the workgroup's first token. False if it has none, or one whose rows are not here.
bool find_expert(uint token) {
    if (PAIRS == PAIRS_NONE) return true;
    int pair = pair_at(token);
    if (pair < 0) return false;
    uint expert = uint(expert_of[pair]) - first_expert;
    expert_column = expert * num_outputs;
    return expert < num_experts;
}

// Start of a token's row of x in fours; tokens past the end read the last one, those without a pair the
// first.
uint x_start(uint token) {
    if (PAIRS != PAIRS_NONE) return x_offset + uint(max(pair_at(token), 0)) / pairs_per_row * x_stride;
    return x_offset + min(token, num_tokens - 1u) * x_stride;
}

// 1 / rms of a row of x, from the sum of its squares.
float norm_factor(float squares) { return inversesqrt(squares / float(num_blocks * BLOCK_ELEMENTS) + eps); }

// Sum of four elements, in the order of all kernels.
float sum_of(vec4 v) { return (v.x + v.y) + (v.z + v.w); }

// up: the second product of a gated weight, otherwise ignored. The caller skips tokens and columns past the
// end: where matmul.comp does so decides how LLVM assigns registers in the loop over blocks before it.
void store_output(uint token, uint column, float product, float up) {
    uint row = token, bias_column = expert_column + column;
    if (PAIRS != PAIRS_NONE) {
        int pair = pair_at(token);
        if (pair < 0) return;
        row = uint(pair);
    }
    float first = HAS_BIAS ? product + bias[bias_offset + bias_column] : product;
    float second = HAS_BIAS && GATE != GATE_NONE ? up + bias[up_bias_offset + bias_column] : up;
    float value = GATE != GATE_NONE ? activate(GATE, first) * second : first;
    if (residual_stride != 0u) value += residual[residual_offset + row * residual_stride + column];
    y[y_offset + row * y_stride + column] = value;
}
