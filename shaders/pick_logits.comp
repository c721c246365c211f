#version 450
// y[m] = logits[m][ids[m]]; zero where ids[m] < 0 (an unused row). One invocation per row.
// Twin: vkbackend/ops/pick_logits.py
layout(local_size_x = 64) in;
layout(std430, binding = 0) readonly buffer Logits { float logits[]; };  // (M, V)
layout(std430, binding = 1) readonly buffer Ids { int ids[]; };          // (M)
layout(std430, binding = 2) writeonly buffer Y { float y[]; };           // (M)
layout(push_constant) uniform Push { uint rows, logits_offset, logits_stride; };

void main() {
    uint m = gl_GlobalInvocationID.x;
    if (m >= rows) return;
    int id = ids[m];
    y[m] = id < 0 ? 0.0 : logits[logits_offset + m * logits_stride + uint(id)];
}
