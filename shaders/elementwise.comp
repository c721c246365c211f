#version 450
// y = f(a, b), elementwise. One invocation per four elements. Rows of y begin at multiples of four.
// Twins: vkbackend/ops/elementwise.py
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "activation.glsl"
#define SILU_MUL 0
#define GELU_MUL 1
#define ADD 2
#define SCALE 3
#define SOFTCAP 4
#define GELU_TANH 5
#define GELU_ERF 6
#define RELU_SQUARED 7
layout(local_size_x = 64) in;
INPUT4(0, a);                                                  // (rows, n)
INPUT4(1, b);                                                  // (rows, n); a if f takes one argument
layout(std430, binding = 2) writeonly buffer Y { vec4 y[]; };  // (rows, n)

layout(push_constant) uniform Push {
    uint n4, a_offset, a_stride, b_offset, b_stride, y_offset, y_stride;
    float parameter;
};

// Abramowitz & Stegun 7.1.26, error below 1.5e-7.
vec4 erf_of(vec4 z) {
    vec4 t = 1.0 / (1.0 + 0.3275911 * abs(z));
    vec4 sum =
        t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(z) * (1.0 - sum * exp(-min(z * z, 80.0)));
}

vec4 function(vec4 p, vec4 q) {
#if FUNCTION == SILU_MUL
    return SILU(p) * q;
#elif FUNCTION == GELU_MUL
    return GELU(p) * q;
#elif FUNCTION == ADD
    return p + q;
#elif FUNCTION == SCALE
    return p * parameter;
#elif FUNCTION == SOFTCAP
    return parameter * tanh(clamp(p / parameter, -15.0, 15.0));
#elif FUNCTION == GELU_TANH
    return GELU(p);
#elif FUNCTION == GELU_ERF
    return 0.5 * p * (1.0 + erf_of(p * 0.7071067811865476));
#elif FUNCTION == RELU_SQUARED
    vec4 positive = max(p, 0.0);
    return positive * positive;
#else
#error unknown FUNCTION
#endif
}

void main() {
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    if (i >= n4) return;
    y[y_offset + row * y_stride + i] =
        function(LOAD4(a, a_offset + row * a_stride + i), LOAD4(b, b_offset + row * b_stride + i));
}
