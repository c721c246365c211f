// Normalizes and rotates a head of queries or keys, spread over lanes in fours of neighboring elements.
// The includer defines HEAD_DIM, N_ROT, HALVES, HAS_NORMS, NORM_LAST, `eps` and the inputs x, turns, q_norm
// and k_norm, and PAIR_POSITION(pair) if pairs of a token turn by different positions.
// `precise`: rounding must not depend on the shader around it.
#include "rotation.glsl"

#ifndef PAIR_POSITION
#define PAIR_POSITION(pair) position
#endif

#define GATHER(NAME, base, e)                                                                   \
    vec4(LOAD1(NAME, (base) + (e).x), LOAD1(NAME, (base) + (e).y), LOAD1(NAME, (base) + (e).z), \
         LOAD1(NAME, (base) + (e).w))

// Rotation of elements 4 * four ... + 3: y = x * cosine + x[partner] * sine.
struct Turn {
    uvec4 element, partner;
    vec4 sine, cosine;
};

Turn turn_of(uint four, uint position) {
    Turn t;
    t.element = 4u * four + uvec4(0u, 1u, 2u, 3u);
    t.partner = t.element;
    t.sine = vec4(0.0);
    t.cosine = vec4(1.0);
    if (4u * four >= N_ROT) return t;
    const uint PAIRS = N_ROT / 2u;
    float magnitude = LOAD1(turns, N_ROT);
    UNROLL (uint i = 0u; i < 4u; i++) {
        uint e = 4u * four + i;
        if (!HALVES && i % 2u == 1u) {  // neighbors turn together
            t.sine[i] = -t.sine[i - 1u];
            t.cosine[i] = t.cosine[i - 1u];
            t.partner[i] = e - 1u;
            continue;
        }
        uint pair = HALVES ? e % PAIRS : e / 2u;
        vec2 both = magnitude * sine_cosine(whole_turns(PAIR_POSITION(pair), LOAD1(turns, pair),
                                                        LOAD1(turns, PAIRS + pair)));
        bool is_left = !HALVES || e < PAIRS;
        t.partner[i] = !HALVES ? e + 1u : is_left ? e + PAIRS : e - PAIRS;
        t.sine[i] = is_left ? -both.x : both.x;
        t.cosine[i] = both.y;
    }
    return t;
}

// 1 / rms of the head whose elements start at `from`; with NORM_LAST of the rotated head, which is known
// before the rotation: only the factor on sines and cosines changes the sum of squares.
float norm_factor(uint from) {
    if (!HAS_NORMS) return 1.0;
    precise float squares = 0.0;
    for (uint four = LANE; four < HEAD_DIM / 4u; four += LANES) {
        vec4 v = GATHER(x, from, 4u * four + uvec4(0u, 1u, 2u, 3u));
        if (NORM_LAST && 4u * four < N_ROT) v *= LOAD1(turns, N_ROT);
        squares += dot(v, v);
    }
    return inversesqrt(group_add(squares) / float(HEAD_DIM) + eps);
}

vec4 normed_and_turned(uint from, Turn t, float factor, bool is_query) {
    vec4 v = GATHER(x, from, t.element), partner = GATHER(x, from, t.partner);
    if (HAS_NORMS && !NORM_LAST) {
        v *= factor * (is_query ? GATHER(q_norm, 0u, t.element) : GATHER(k_norm, 0u, t.element));
        partner *= factor * (is_query ? GATHER(q_norm, 0u, t.partner) : GATHER(k_norm, 0u, t.partner));
    }
    precise vec4 y = fma(partner, t.sine, v * t.cosine);
    if (HAS_NORMS && NORM_LAST)
        y *= factor * (is_query ? GATHER(q_norm, 0u, t.element) : GATHER(k_norm, 0u, t.element));
    return y;
}
