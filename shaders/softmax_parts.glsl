// Softmax over a set of positions in parts, which are merged in order (Milakov & Gimelshein 2018): each part
// has its highest score, the sum of exp(score - highest), and the sum of the values with these weights.
// Written in fma, so that it rounds the same way everywhere.
const float LOWEST = -3.0e38;

// Factors of the two parts' sums in the merged sum.
vec2 part_factors(float highest, float other) {
    float both = max(highest, other);
    return vec2(exp(highest - both), exp(other - both));
}
float merge(float sum, float part, vec2 factors) { return fma(sum, factors.x, part * factors.y); }
vec4 merge(vec4 sum, vec4 part, vec2 factors) { return fma(sum, vec4(factors.x), part * factors.y); }
