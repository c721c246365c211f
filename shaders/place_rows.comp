#version 450
// x[rows[r]] = values[r]; nothing where rows[r] < 0 (unused). One invocation per four elements.
// Twin: vkbackend/ops/place_rows.py
layout(local_size_x = 64) in;
layout(std430, binding = 0) readonly buffer Rows { int rows[]; };       // (R)
layout(std430, binding = 1) readonly buffer Values { vec4 values[]; };  // (R, n)
layout(std430, binding = 2) writeonly buffer X { vec4 x[]; };           // (tokens, n)
layout(push_constant) uniform Push { uint n4, x_offset, x_stride, values_offset, values_stride; };

void main() {
    uint i = gl_GlobalInvocationID.x, r = gl_WorkGroupID.y;
    if (i >= n4 || rows[r] < 0) return;
    x[x_offset + uint(rows[r]) * x_stride + i] = values[values_offset + r * values_stride + i];
}
