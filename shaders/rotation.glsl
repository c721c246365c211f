// Angles of rotary position embedding. Vulkan guarantees sin and cos to 2^-11 only, and a single-precision
// angle of thousands of radians is coarse: angles are counted in whole turns, whose fraction is exact, and
// sine and cosine are polynomials.

// position * turns, less most of its whole turns. turns comes in two parts (vkbackend/ops/rope.py), so that
// products are of 12 bits by 12 bits and exact.
float whole_turns(uint position, float leading, float rest) {
    float above = float(position & ~4095u) * leading, below = float(position & 4095u) * leading;
    return (above - floor(above)) + (below - floor(below)) + float(position) * rest;
}

// Sine and cosine of `turn` turns, |turn| < 2^22: nearest quarter turn, then Cephes' sinf and cosf on the
// remainder (Moshier 1989, https://www.netlib.org/cephes/; error below 2^-23).
vec2 sine_cosine(float turn) {
    float fraction = turn - round(turn);
    int quarter = int(round(fraction * 4.0));
    float a = 6.283185307179586 * (fraction - 0.25 * float(quarter)), z = a * a;
    float s = a + a * z * (-1.6666654611e-1 + z * (8.3321608736e-3 + z * -1.9515295891e-4));
    float c = 1.0 - 0.5 * z +
              z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5));
    switch (quarter & 3) {
    case 0:
        return vec2(s, c);
    case 1:
        return vec2(c, -s);
    case 2:
        return vec2(-s, -c);
    default:
        return vec2(-c, s);
    }
}
