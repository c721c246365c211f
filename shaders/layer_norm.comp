#version 450
// y = (x - mean(x)) / sqrt(variance(x) + eps) * weight [+ bias] [+ residual]. One group per row.
// Twin: vkbackend/ops/layer_norm.py
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"

layout(constant_id = 1) const bool HAS_BIAS = false;
layout(constant_id = 2) const bool HAS_RESIDUAL = false;
INPUT4(0, x);         // rows in (tokens, heads): row = token * heads + head
INPUT4(1, weight);    // (n) or (heads, n)
INPUT4(2, bias);      // like weight; bound to weight if there is none
INPUT4(3, residual);  // like y; bound to weight if there is none
layout(std430, binding = 4) writeonly buffer Y { vec4 y[]; };  // like x; may be x

layout(push_constant) uniform Push {  // offsets and strides in fours
    uint heads, n4, count;            // count: elements of a row that are not padding
    uint weight_stride;               // from one head to the next: 0 or n4
    uint x_offset, x_stride, residual_offset, residual_stride, y_offset, y_stride;
    float eps;
};

void main() {
    uint row = gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
    uint token = row / heads, head = row % heads;
    uint from = x_offset + token * x_stride + head * n4, weights = head * weight_stride;

    float total = 0.0;
    for (uint i = LANE; i < n4; i += LANES) total += dot(LOAD4(x, from + i), vec4(1.0));
    float mean = group_add(total) / float(count);

    float squares = 0.0;
    for (uint i = LANE; i < n4; i += LANES) {
        vec4 v = LOAD4(x, from + i) - mean;
        squares += dot(v, v);
    }
    // Each zero of the padding added mean^2.
    float padding = float(n4 * 4u - count) * mean * mean;
    float scale = inversesqrt(max(group_add(squares) - padding, 0.0) / float(count) + eps);

    for (uint i = LANE; i < n4; i += LANES) {
        vec4 v = (LOAD4(x, from + i) - mean) * scale * LOAD4(weight, weights + i);
        if (HAS_BIAS) v += LOAD4(bias, weights + i);
        if (HAS_RESIDUAL) v += LOAD4(residual, residual_offset + token * residual_stride + head * n4 + i);
        y[y_offset + token * y_stride + head * n4 + i] = v;
    }
}
