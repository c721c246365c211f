#version 450
// y = f(a, b), elementwise. One invocation per four elements.
// Twins: vkbackend/ops/elementwise.py
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "activation.glsl"
#define SILU_MUL 0
#define GELU_MUL 1
#define ADD 2
#define SCALE 3
#define SOFTCAP 4
layout(local_size_x = 64) in;
INPUT4(0, a);                                                  // (rows, n)
INPUT4(1, b);                                                  // (rows, n); a if f takes one argument
layout(std430, binding = 2) writeonly buffer Y { vec4 y[]; };  // (rows, n), dense

layout(push_constant) uniform Push {
    uint n4, a_offset, a_stride, b_offset, b_stride;
    float parameter;
};

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
#else
#error unknown FUNCTION
#endif
}

void main() {
    uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    if (i >= n4) return;
    y[row * n4 + i] =
        function(LOAD4(a, a_offset + row * a_stride + i), LOAD4(b, b_offset + row * b_stride + i));
}
