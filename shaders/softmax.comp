#version 450
// y = softmax(x), or its logarithm with LOG, along each row. One group per row, three passes.
// Twin: vkbackend/ops/softmax.py
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
#include "softmax_parts.glsl"
INPUT4(0, x);                                                  // (rows, n), n a multiple of 4
layout(std430, binding = 1) writeonly buffer Y { vec4 y[]; };  // (rows, n)
layout(push_constant) uniform Push { uint n4, x_offset, x_stride; };

void main() {
    uint row = gl_WorkGroupID.x, from = x_offset + row * x_stride;

    float highest = LOWEST;
    for (uint i = LANE; i < n4; i += LANES) {
        vec4 v = LOAD4(x, from + i);
        highest = max(highest, max(max(v.x, v.y), max(v.z, v.w)));
    }
    highest = group_max(highest);

    float total = 0.0;
    for (uint i = LANE; i < n4; i += LANES) total += dot(exp(LOAD4(x, from + i) - highest), vec4(1.0));
    total = group_add(total);

    float log_total = log(total);
    for (uint i = LANE; i < n4; i += LANES) {
        vec4 v = LOAD4(x, from + i) - highest;
#ifdef LOG
        y[row * n4 + i] = v - log_total;
#else
        y[row * n4 + i] = exp(v) / total;
#endif
    }
}
