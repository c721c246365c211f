#version 450
// Moves memory as fast as the device can: reads everything, and with COPY writes it too. For `vkbackend bench`, see vkbackend/bench/device_speed.py.
// An invocation takes UNROLL words of 16 bytes, as far apart as there are invocations, so that neighbours read neighbouring words.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(local_size_x = 64) in;
const uint UNROLL = 8;
INPUT4U(0, source);
#ifdef COPY
layout(std430, binding = 1) writeonly buffer Target { uvec4 target[]; };
#else
layout(std430, binding = 1) writeonly buffer Target { uint sums[]; };  // one word per invocation, so that no read can be left out
#endif

void main() {
    uint i = gl_GlobalInvocationID.x, stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
#ifdef COPY
    [[unroll]] for (uint k = 0; k < UNROLL; k++) target[i + k * stride] = LOAD4(source, i + k * stride);
#else
    uvec4 sum = uvec4(0);
    [[unroll]] for (uint k = 0; k < UNROLL; k++) sum ^= LOAD4(source, i + k * stride);
    sums[i] = sum.x ^ sum.y ^ sum.z ^ sum.w;
#endif
}
