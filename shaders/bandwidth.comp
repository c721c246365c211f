#version 450
// Memory bandwidth: reads a whole buffer and, with COPY, also writes it. For `vkbackend bench`:
// vkbackend/bench/device_speed.py. An invocation takes WORDS words of 16 bytes, as far apart as there are
// invocations, so that neighbors read neighboring words.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(local_size_x = 64) in;
const uint WORDS = 8;
INPUT4U(0, source);
#ifdef COPY
layout(std430, binding = 1) writeonly buffer Target { uvec4 target[]; };
#else
// a word per invocation, so that no read is optimized away
layout(std430, binding = 1) writeonly buffer Target { uint sums[]; };
#endif

void main() {
    uint i = gl_GlobalInvocationID.x, stride = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
#ifdef COPY
    UNROLL (uint k = 0; k < WORDS; k++) target[i + k * stride] = LOAD4(source, i + k * stride);
#else
    uvec4 sum = uvec4(0);
    UNROLL (uint k = 0; k < WORDS; k++) sum ^= LOAD4(source, i + k * stride);
    sums[i] = sum.x ^ sum.y ^ sum.z ^ sum.w;
#endif
}
