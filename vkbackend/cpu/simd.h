// Vectors of eight floats, in GCC's vector extension: without AVX they become two vectors of four.
//
// Everything is static and inline, since the same names are compiled with different instructions.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif
#ifdef __ARM_NEON
#include <arm_neon.h>
#endif

namespace {

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));

inline v8 splat(float x) { return v8{x, x, x, x, x, x, x, x}; }

inline v8 load(const float* from) {
    v8 x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float* to, v8 x) { std::memcpy(to, &x, sizeof x); }

// a * b + c, rounded once where the CPU has such an instruction.
inline v8 fma8(v8 a, v8 b, v8 c) {
#if defined(__FMA__)
    return (v8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

inline float half_to_float(uint16_t bits) {
    _Float16 half;
    std::memcpy(&half, &bits, sizeof half);
    return (float)half;
}

inline uint16_t float_to_half(float x) {
    _Float16 half = (_Float16)x;
    uint16_t bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
}

inline v8 load_half(const uint16_t* from) {
#ifdef __F16C__
    return (v8)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
    v8 x;
    for (int i = 0; i < 8; ++i) x[i] = half_to_float(from[i]);
    return x;
#endif
}

inline v8 load_bytes(const int8_t* from) {
#ifdef __AVX2__
    return (v8)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#else
    v8 x;
    for (int i = 0; i < 8; ++i) x[i] = from[i];
    return x;
#endif
}

inline v8 max8(v8 a, v8 b) { return a > b ? a : b; }  // b if a is NaN

// Sums of neighbors, within each half: a0+a1, a2+a3, b0+b1, b2+b3, a4+a5, ...
inline v8 pairs(v8 a, v8 b) {
    return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

// The sum of the elements of each of eight vectors.
inline v8 sums(const v8* a) {
    v8 low = pairs(pairs(a[0], a[1]), pairs(a[2], a[3]));
    v8 high = pairs(pairs(a[4], a[5]), pairs(a[6], a[7]));
    return __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
}

inline float sum(v8 a) { return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7])); }

// e^x: x = n ln 2 + r, a polynomial of r (the coefficients of Cephes' expf), times 2^n. 0 below -87.3.
inline v8 exp8(v8 x) {
    const float lowest = -87.33654f, highest = 88.37626f,
                magic = 12582912.0f;  // 1.5 * 2^23: rounds to integers
    v8 bounded = x < lowest ? splat(lowest) : x;
    bounded = bounded > highest ? splat(highest) : bounded;
    v8 shifted = fma8(bounded, splat(1.44269504f), splat(magic));
    v8 n = shifted - magic;
    v8 r = fma8(n, splat(-0.693359375f), bounded);
    r = fma8(n, splat(2.12194440e-4f), r);
    v8 p = splat(1.9875691500e-4f);
    p = fma8(p, r, splat(1.3981999507e-3f));
    p = fma8(p, r, splat(8.3334519073e-3f));
    p = fma8(p, r, splat(4.1665795894e-2f));
    p = fma8(p, r, splat(1.6666665459e-1f));
    p = fma8(p, r, splat(5.0000001201e-1f));
    p = fma8(p, r * r, r + 1.0f);
    i8 exponent = (i8)shifted - 0x4B400000;
    v8 scaled = p * (v8)((exponent + 127) << 23);
    return x < lowest ? splat(0) : scaled;
}

// exp8 of one number, with the same bits.
inline float exp1(float x) { return exp8(splat(x))[0]; }

inline v8 tanh8(v8 x) { return 1.0f - 2.0f / (exp8(2.0f * x) + 1.0f); }

inline v8 silu8(v8 x) { return x / (exp8(-x) + 1.0f); }

// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
inline v8 gelu8(v8 x) { return x / (exp8(-1.595769122f * (x * (x * x * 0.044715f + 1.0f))) + 1.0f); }

// x times the normal distribution function of x; erf is Abramowitz & Stegun 7.1.26, error below 1.5e-7.
inline v8 gelu_erf8(v8 x) {
    v8 z = x * 0.7071067811865476f;
    v8 size = z < splat(0) ? -z : z;
    v8 t = 1.0f / (1.0f + 0.3275911f * size);
    v8 p = splat(1.061405429f);
    p = fma8(p, t, splat(-1.453152027f));
    p = fma8(p, t, splat(1.421413741f));
    p = fma8(p, t, splat(-0.284496736f));
    p = fma8(p, t, splat(0.254829592f));
    v8 erf = 1.0f - p * t * exp8(-z * z);
    return 0.5f * x * (1.0f + (z < splat(0) ? -erf : erf));
}

// Calls f(at, count) for runs of up to 8 elements; count is 8 but for the last.
template <class F>
inline void eights(int64_t width, F f) {
    int64_t at = 0;
    for (; at + 8 <= width; at += 8) f(at, 8);
    if (at < width) f(at, int(width - at));
}

inline v8 load_some(const float* from, int count) {
    if (count == 8) return load(from);
    v8 x = splat(0);
    for (int i = 0; i < count; ++i) x[i] = from[i];
    return x;
}

inline void store_some(float* to, v8 x, int count) {
    if (count == 8) return store(to, x);
    for (int i = 0; i < count; ++i) to[i] = x[i];
}

}  // namespace
