// Shared by the matrix product kernels: bindings, push constants, rows of gated weights, and the output
// stage.
//
// TEXEL: x, norm and the planes of the weight are uniform texel buffers (see common.glsl).
layout(constant_id = 1) const uint GATE_ROWS = 8;  // neighboring rows of the gate, then of up
layout(constant_id = 2) const bool HAS_NORM = false;
layout(constant_id = 3) const uint GATE = 0;  // one of GATE_* in activation.glsl
layout(constant_id = 5) const bool HAS_BIAS = false;

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
layout(std430, binding = 6) writeonly buffer Y { float y[]; };       // (tokens, N)

layout(push_constant) uniform Push {
    uint num_tokens, num_rows, num_blocks;  // rows as packed
    uint num_outputs;                       // columns of y
    uint x_offset, x_stride;                // in fours
    uint y_offset, y_stride;
    uint residual_offset, residual_stride;  // stride 0: no residual
    uint bias_offset, up_bias_offset;       // of a gated weight: the gate's, and up's
    float eps;
};

const uint STEP = GATE != GATE_NONE ? 2u : 1u;  // rows of the weight per column of y

// The packed row at `place` where rows of the gate and of up alternate, so that neighbors hold both halves of
// an output.
uint row_at(uint place) {
    uint pair = place / 2u;
    return GATE == GATE_NONE
               ? place
               : (pair / GATE_ROWS) * 2u * GATE_ROWS + pair % GATE_ROWS + (place % 2u) * GATE_ROWS;
}

// Start of a token's row of x in fours; tokens past the end read the last one.
uint x_start(uint token) { return x_offset + min(token, num_tokens - 1u) * x_stride; }

// 1 / rms of a row of x, from the sum of its squares.
float norm_factor(float squares) { return inversesqrt(squares / float(num_blocks * BLOCK_ELEMENTS) + eps); }

// Sum of four elements, in the order of all kernels.
float sum_of(vec4 v) { return (v.x + v.y) + (v.z + v.w); }

// up: the second product of a gated weight, otherwise ignored. The caller skips tokens and columns past the
// end: where matmul.comp does so decides how LLVM assigns registers in the loop over blocks before it.
void store_output(uint token, uint column, float product, float up) {
    float first = HAS_BIAS ? product + bias[bias_offset + column] : product;
    float second = HAS_BIAS && GATE != GATE_NONE ? up + bias[up_bias_offset + column] : up;
    float value = GATE != GATE_NONE ? activate(GATE, first) * second : first;
    if (residual_stride != 0u) value += residual[residual_offset + token * residual_stride + column];
    y[y_offset + token * y_stride + column] = value;
}
