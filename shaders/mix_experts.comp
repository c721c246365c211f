#version 450
// What a token's experts computed, times their weights, added up in their order. One invocation per four
// elements.
// Twin: vkbackend/ops/mix_experts.py
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const bool HAS_RESIDUAL = false;
layout(constant_id = 1) const bool HAS_SHARED = false;
INPUT4(0, products);                                                       // (tokens * used, n)
INPUT4(1, residual);                                                       // (tokens, n)
INPUT4(2, shared_);                                                        // (tokens, n)
layout(std430, binding = 3) readonly buffer Weights { float weights[]; };  // (tokens, used)
layout(std430, binding = 4) readonly buffer Gate { float gate[]; };  // (tokens): logits of the shared expert
layout(std430, binding = 5) writeonly buffer Y { vec4 y[]; };        // (tokens, n)
layout(push_constant) uniform Push {
    uint n4, num_used;
    uint products_offset, products_stride, residual_offset, residual_stride, shared_offset, shared_stride;
    uint weights_offset, weights_stride, gate_offset, gate_stride, y_offset, y_stride;
};

void main() {
    uint i = gl_GlobalInvocationID.x, token = gl_WorkGroupID.y;
    if (i >= n4) return;
    vec4 total = vec4(0.0);
    for (uint j = 0u; j < num_used; j++) {
        float weight = weights[weights_offset + token * weights_stride + j];
        if (weight != 0.0) {
            uint row = token * num_used + j;
            total += LOAD4(products, products_offset + row * products_stride + i) * weight;
        }
    }
    if (HAS_RESIDUAL) total += LOAD4(residual, residual_offset + token * residual_stride + i);
    if (HAS_SHARED) {
        float logit = gate[gate_offset + token * gate_stride];
        total += LOAD4(shared_, shared_offset + token * shared_stride + i) / (1.0 + exp(-logit));
    }
    y[y_offset + token * y_stride + i] = total;
}
