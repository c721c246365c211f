#version 450
// Peak rate of fused multiply-adds, in CHAINS independent chains; with HALF in pairs of 16-bit floats.
// For `vkbackend bench`: vkbackend/bench/device_speed.py
#extension GL_GOOGLE_include_directive : require
#include "unroll.glsl"
layout(local_size_x = 64) in;
const uint CHAINS = 8, STEPS = 4;
#ifdef HALF
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define NUMBER f16vec2
#define SUM(v) float(v.x + v.y)
#else
#define NUMBER float
#define SUM(v) v
#endif
// a word per invocation, so that no chain is optimized away
layout(std430, binding = 0) writeonly buffer Sums { float sums[]; };
layout(push_constant) uniform Push {
    uint rounds;  // of STEPS steps
    float factor, addend;
};

void main() {
    NUMBER b = NUMBER(factor), c = NUMBER(addend), chains[CHAINS];
    UNROLL (uint k = 0; k < CHAINS; k++) chains[k] = NUMBER(float(gl_LocalInvocationID.x) + float(k));

    for (uint round = 0; round < rounds; round++) {
        UNROLL (uint step = 0; step < STEPS; step++)
            UNROLL (uint k = 0; k < CHAINS; k++) chains[k] = fma(chains[k], b, c);
    }

    NUMBER sum = NUMBER(0);
    UNROLL (uint k = 0; k < CHAINS; k++) sum += chains[k];
    sums[gl_GlobalInvocationID.x] = SUM(sum);
}
