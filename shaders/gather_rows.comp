#version 450
// y[m] = x[rows[m]]; zeros where rows[m] < 0 (an unused output). One invocation per four elements.
// Twin: vkbackend/ops/gather_rows.py
layout(local_size_x = 64) in;
layout(std430, binding = 0) readonly buffer X { vec4 x[]; };       // (tokens, n)
layout(std430, binding = 1) readonly buffer Rows { int rows[]; };  // (M)
layout(std430, binding = 2) writeonly buffer Y { vec4 y[]; };      // (M, n)
layout(push_constant) uniform Push { uint n4, x_offset, x_stride; };

void main() {
    uint i = gl_GlobalInvocationID.x, m = gl_WorkGroupID.y;
    if (i >= n4) return;
    int row = rows[m];
    y[m * n4 + i] = row < 0 ? vec4(0.0) : x[x_offset + uint(row) * x_stride + i];
}
