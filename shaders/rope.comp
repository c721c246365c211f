#version 450
// Rotary position embedding, in place: rotates each pair of a head by position * turns[i] whole turns. One
// invocation per pair.
// Twin: vkbackend/ops/rope.py
#extension GL_GOOGLE_include_directive : require
#include "rotation.glsl"
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint HEAD_DIM = 64;
layout(constant_id = 1) const uint N_ROT = 64;
layout(constant_id = 2) const bool HALVES = false;  // pairs are (i, i + n_rot/2) instead of (2i, 2i + 1)
layout(std430, binding = 0) readonly buffer Positions { int positions[]; };  // (tokens); negative: unused
// (2, n_rot / 2): 12 leading bits, then the rest; a factor on sines and cosines
layout(std430, binding = 1) readonly buffer Turns { float turns[]; };
layout(std430, binding = 2) buffer X { float x[]; };  // (tokens, heads, head_dim)

layout(push_constant) uniform Push { uint heads, x_offset, x_stride; };

void main() {
    uint pair = gl_GlobalInvocationID.x, token = gl_WorkGroupID.y;
    uint head = pair / (N_ROT / 2u), i = pair % (N_ROT / 2u);
    if (head >= heads || positions[token] < 0) return;

    vec2 rotation =
        turns[N_ROT] * sine_cosine(whole_turns(uint(positions[token]), turns[i], turns[N_ROT / 2u + i]));

    uint row = x_offset + token * x_stride + head * HEAD_DIM;
    uint first = row + (HALVES ? i : 2u * i), second = HALVES ? first + N_ROT / 2u : first + 1u;
    float a = x[first], b = x[second];
    x[first] = a * rotation.y - b * rotation.x;
    x[second] = a * rotation.x + b * rotation.y;
}
