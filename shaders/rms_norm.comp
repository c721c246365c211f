#version 450
// y = x / sqrt(mean(x^2) + eps) * weight [+ residual]. One group per row.
// Twin: vkbackend/ops/rms_norm.py
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"

layout(constant_id = 1) const bool HAS_RESIDUAL = false;
INPUT4(0, x);         // rows in (tokens, heads): row = token * heads + head
INPUT4(1, weight);    // (n)
INPUT4(2, residual);  // like y; bound to weight if there is none
layout(std430, binding = 3) writeonly buffer Y { vec4 y[]; };  // (rows, n); may be x

layout(push_constant) uniform Push {  // offsets and strides in fours
    uint heads, n4, x_offset, x_stride, residual_offset, residual_stride, y_offset, y_stride;
    float eps;
};

void main() {
    uint row = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
    uint token = row / heads, head = row % heads;
    uint from = x_offset + token * x_stride + head * n4;

    float squares = 0.0;
    for (uint i = LANE; i < n4; i += LANES) {
        vec4 v = LOAD4(x, from + i);
        squares += dot(v, v);
    }
    float scale = inversesqrt(group_add(squares) / float(n4 * 4u) + eps);

    for (uint i = LANE; i < n4; i += LANES) {
        vec4 v = LOAD4(x, from + i) * scale * LOAD4(weight, i);
        if (HAS_RESIDUAL) v += LOAD4(residual, residual_offset + token * residual_stride + head * n4 + i);
        y[y_offset + token * y_stride + head * n4 + i] = v;
    }
}
