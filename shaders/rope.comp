#version 450
// Rotary position embedding, in place: turn each pair of a head by position * turns[i]. One invocation per pair.
// Twin: vkbackend/ops/rope.py
//
// Vulkan promises sin and cos to 2^-11 only, and a single-precision angle of thousands of radians is coarse: angles are counted in whole
// turns here, whose fractions are found exactly, and sine and cosine are polynomials.
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint HEAD_DIM = 64;
layout(constant_id = 1) const uint N_ROT = 64;
layout(constant_id = 2) const bool HALVES = false;        // pairs are (i, i + n_rot/2) instead of (2i, 2i + 1)
layout(std430, binding = 0) readonly buffer Positions { int positions[]; };  // (tokens); negative: slot unused
layout(std430, binding = 1) readonly buffer Turns { float turns[]; };        // (2, n_rot / 2): 12 leading bits, then the rests
layout(std430, binding = 2) buffer X { float x[]; };                         // (tokens, heads, head_dim)

layout(push_constant) uniform Push { uint heads, x_offset, x_stride; };

// Sine and cosine of `turn` whole turns, |turn| < 2^22: nearest quarter turn, then Cephes' sinf and cosf on what is left
// (Moshier 1989, https://www.netlib.org/cephes/; error below 2^-23).
vec2 sine_cosine(float turn) {
    float fraction = turn - round(turn);
    int quarter = int(round(fraction * 4.0));
    float a = 6.283185307179586 * (fraction - 0.25 * float(quarter)), z = a * a;
    float s = a + a * z * (-1.6666654611e-1 + z * (8.3321608736e-3 + z * -1.9515295891e-4));
    float c = 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5));
    switch (quarter & 3) {
    case 0: return vec2(s, c);
    case 1: return vec2(c, -s);
    case 2: return vec2(-s, -c);
    default: return vec2(-c, s);
    }
}

void main() {
    uint pair = gl_GlobalInvocationID.x, token = gl_WorkGroupID.y;
    uint head = pair / (N_ROT / 2u), i = pair % (N_ROT / 2u);
    if (head >= heads || positions[token] < 0) return;

    // position * turns in parts of 12 bits by 12 bits, which floats multiply exactly.
    uint position = uint(positions[token]);
    float above = float(position & ~4095u) * turns[i], below = float(position & 4095u) * turns[i];
    vec2 sc = sine_cosine((above - floor(above)) + (below - floor(below)) + float(position) * turns[N_ROT / 2u + i]);

    uint row = x_offset + token * x_stride + head * HEAD_DIM;
    uint first = row + (HALVES ? i : 2u * i), second = HALVES ? first + N_ROT / 2u : first + 1u;
    float a = x[first], b = x[second];
    x[first] = a * sc.y - b * sc.x;
    x[second] = a * sc.x + b * sc.y;
}
