// Rounds activations to 8 bits with the bits of ggml's quantize_row_q8_K, quantize_row_q8_0 and quantize_row_q8_1.
#include "products.h"
#include "simd.h"
#include "variant.h"

namespace vkbackend_cpu::VARIANT {

#ifdef __AVX2__

// 32 floats times `factor`, rounded to the nearest integer, halves to even.
struct Rounded {
    i8 each[4];

    Rounded(const float* x, float factor) {
        for (int i = 0; i < 4; ++i) each[i] = (i8)_mm256_cvtps_epi32((__m256)(load(x + 8 * i) * factor));
    }

    void store_codes(int8_t* codes) const {
        const __m256i low = _mm256_packs_epi32((__m256i)each[0], (__m256i)each[1]);
        const __m256i high = _mm256_packs_epi32((__m256i)each[2], (__m256i)each[3]);
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        _mm256_storeu_si256((__m256i*)codes, bytes);
    }
};

static int32_t sum_of(i8 a) { return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7])); }

static v8 magnitude(v8 x) { return (v8)((i8)x & 0x7FFFFFFF); }

static float largest_of(v8 x) {
    float largest = 0;
    for (int i = 0; i < 8; ++i) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

static void round_group(const float* x, Codes256& y) {
    v8 most = splat(0);
    for (int i = 0; i < 256; i += 8) most = max8(magnitude(load(x + i)), most);
    const float largest = largest_of(most);
    if (!(largest > 0)) {
        std::memset(&y, 0, sizeof y);
        return;
    }
    const float factor = 127.0f / largest;
    for (int i = 0; i < 8; ++i) {
        const Rounded rounded(x + 32 * i, factor);
        rounded.store_codes(y.codes + 32 * i);
        y.sums[2 * i] = int16_t(sum_of(rounded.each[0] + rounded.each[1]));
        y.sums[2 * i + 1] = int16_t(sum_of(rounded.each[2] + rounded.each[3]));
        y.pair_sums[i] = int16_t(y.sums[2 * i] + y.sums[2 * i + 1]);
    }
    y.scale = 1.0f / factor;
}

static void round_block(const float* x, Codes32& y, int block) {
    v8 most = splat(0);
    for (int i = 0; i < 32; i += 8) most = max8(magnitude(load(x + i)), most);
    const float largest = largest_of(most), scale = largest / 127.0f;
    const Rounded rounded(x, largest > 0 ? 127.0f / largest : 0.0f);
    rounded.store_codes(y.codes[block]);
    const i8 each = (rounded.each[0] + rounded.each[1]) + (rounded.each[2] + rounded.each[3]);
    y.scales[block] = half_to_float(float_to_half(scale));
    y.sums[block] = half_to_float(float_to_half(scale * float(sum_of(each))));
}

void quantize_256(const QuantizeArgs& args, int task, int tasks) {
    const int64_t groups = args.x.width / 256;
    for (int64_t at = task; at < args.x.count * groups; at += tasks) {
        const int64_t row = at / groups, group = at % groups;
        Codes256* codes = (Codes256*)args.codes;
        round_group(args.x.row(row) + group * 256, codes[place_of_codes(row, group, args.x.count, groups)]);
    }
}

void quantize_32(const QuantizeArgs& args, int task, int tasks) {
    const int64_t blocks = args.x.width / 32, groups = (blocks + 3) / 4;
    for (int64_t at = task; at < args.x.count * groups; at += tasks) {
        const int64_t row = at / groups, group = at % groups;
        Codes32& codes = ((Codes32*)args.codes)[place_of_codes(row, group, args.x.count, groups)];
        for (int64_t block = 4 * group; block < blocks && block < 4 * group + 4; ++block)
            round_block(args.x.row(row) + 32 * block, codes, int(block % 4));
    }
}

#endif

}  // namespace vkbackend_cpu::VARIANT
