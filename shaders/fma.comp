#version 450
// Multiplies and adds as fast as the device can, in CHAINS chains that do not wait for each other. For `vkbackend bench`, see
// vkbackend/bench/device_speed.py. With HALF in pairs of 16-bit floats.
#extension GL_EXT_control_flow_attributes : require
layout(local_size_x = 64) in;
const uint CHAINS = 8, UNROLL = 4;
#ifdef HALF
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define NUMBER f16vec2
#define SUM(v) float(v.x + v.y)
#else
#define NUMBER float
#define SUM(v) v
#endif
layout(std430, binding = 0) writeonly buffer Sums { float sums[]; };  // one word per invocation, so that no chain can be left out
layout(push_constant) uniform Push { uint rounds; float factor, addend; };  // rounds of UNROLL steps

void main() {
    NUMBER b = NUMBER(factor), c = NUMBER(addend), chains[CHAINS];
    [[unroll]] for (uint k = 0; k < CHAINS; k++) chains[k] = NUMBER(float(gl_LocalInvocationID.x) + float(k));

    for (uint round = 0; round < rounds; round++) {
        [[unroll]] for (uint step = 0; step < UNROLL; step++)
            [[unroll]] for (uint k = 0; k < CHAINS; k++) chains[k] = fma(chains[k], b, c);
    }

    NUMBER sum = NUMBER(0);
    [[unroll]] for (uint k = 0; k < CHAINS; k++) sum += chains[k];
    sums[gl_GlobalInvocationID.x] = SUM(sum);
}
