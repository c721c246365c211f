// The softmax of a set of positions in parts, which are put together in order (Milakov & Gimelshein 2018): each has its highest score, the
// sum of exp(score - highest) and the sum of the values so weighted. Written out in fma, so that it rounds alike wherever it is done.
const float LOWEST = -3.0e38;

// What the sums of two parts are multiplied with in the sum of both.
vec2 part_factors(float highest, float other) {
    float both = max(highest, other);
    return vec2(exp(highest - both), exp(other - both));
}
float put_together(float sum, float part, vec2 factors) { return fma(sum, factors.x, part * factors.y); }
vec4 put_together(vec4 sum, vec4 part, vec2 factors) { return fma(sum, vec4(factors.x), part * factors.y); }
