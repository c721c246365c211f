#version 450
// y[t] = scale * weight[tokens[t]], dequantized. One invocation per block of 32.
// Twin: vkbackend/ops/embed.py
// Weights in several parts need a dispatch per part, each of which skips tokens outside of its rows.
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 64) in;
layout(std430, binding = 0) readonly buffer Tokens { int tokens[]; };
#define QUANTS_BINDING 1
#define SCALES_BINDING 2
#include "quant/format.glsl"
layout(std430, binding = 3) writeonly buffer Y { vec4 y[]; };  // (T, K)
layout(push_constant) uniform Push {
    uint num_blocks, first_row, num_rows;
    float scale;
};

void main() {
    uint b = gl_GlobalInvocationID.x, t = gl_WorkGroupID.y;
    uint row = uint(tokens[t]) - first_row;  // below first_row this wraps around
    if (b >= num_blocks || row >= num_rows) return;
    Block block = load_block(row / GROUP_ROWS, b, row % GROUP_ROWS, num_blocks);
    uint to = (t * num_blocks + b) * BLOCK_FOURS;
#define FOUR(J) y[to + J] = weights(block, J) * scale;
    FOUR(0u) FOUR(1u) FOUR(2u) FOUR(3u) FOUR(4u) FOUR(5u) FOUR(6u) FOUR(7u)
}
