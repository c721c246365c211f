// Products of quantized weights and activations of 8 bits: a row of weights is unpacked once for up to TILE rows of
// activations. Each row has the bits of ggml's vec_dot on x86 with AVX2: sums of integers are exact, and sums of floats
// are in the same order.
#include <atomic>

#include "products.h"
#include "simd.h"
#include "variant.h"

namespace vkbackend_cpu::VARIANT {

#ifdef __AVX2__

static const int64_t CHUNK = 16;  // rows of weights that a thread takes at a time, or multiples of it

static __m256i bytes(const void* from) { return _mm256_loadu_si256((const __m256i*)from); }

static __m128i half_of_bytes(const void* from) { return _mm_loadu_si128((const __m128i*)from); }

static float half_at(const uint8_t* from) {
    uint16_t half;
    std::memcpy(&half, from, sizeof half);
    return _cvtsh_ss(half);
}

// sum + the sums of two neighboring products of int16.
static __m256i add_pairs(__m256i sum, __m256i a, __m256i b) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpwssd_epi32(sum, a, b);
#else
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
}

// Sums of four neighboring products of a byte without sign and one with a sign, as floats.
static __m256 sums_of_four(__m256i a, __m256i b) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_cvtepi32_ps(_mm256_dpbusd_epi32(_mm256_setzero_si256(), a, b));
#else
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
#endif
}

// 32 codes of 4 bits: those of the lower halves of the bytes, then those of the upper halves.
static __m256i nibbles(const uint8_t* from) {
    const __m128i both = half_of_bytes(from);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(both, 4), both), _mm256_set1_epi8(15));
}

// `set` in the bytes whose bit is set.
static __m256i fifth_bits(const uint8_t* from, char set) {
    int32_t bits;
    std::memcpy(&bits, from, sizeof bits);
    const __m256i order = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), order);
    const __m256i mask = _mm256_set1_epi64x(int64_t(0x8040201008040201));
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, mask), mask), _mm256_set1_epi8(set));
}

// What a row of activations has summed up. offsets: of formats with minima.
struct Sums {
    __m256 products = _mm256_setzero_ps();
    __m128 offsets = _mm_setzero_ps();

    float total() const {
        const __m128 four = _mm_add_ps(_mm256_extractf128_ps(products, 1), _mm256_castps256_ps128(products));
        return (four[0] + four[2]) + (four[1] + four[3]);
    }
};

// Eight codes of 6 bits for scales and eight for minima, in 12 bytes.
static void unpack_scales(const uint8_t* from, __m128i& scales, __m128i& minima) {
    uint32_t a, b, c;
    std::memcpy(&a, from, 4);
    std::memcpy(&b, from + 4, 4);
    std::memcpy(&c, from + 8, 4);
    const uint32_t high_scales = (c & 0x0F0F0F0F) | ((a >> 6) & 0x03030303) << 4;
    const uint32_t high_minima = ((c >> 4) & 0x0F0F0F0F) | ((b >> 6) & 0x03030303) << 4;
    scales = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(int64_t(uint64_t(high_scales) << 32 | (a & 0x3F3F3F3F))));
    minima = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(int64_t(uint64_t(high_minima) << 32 | (b & 0x3F3F3F3F))));
}

// Of 256 weights: each eighth's codes times those of y, times its scales. Two chains, so that neither waits.
static inline __m256i scaled_products(const __m256i* codes, const __m256i* scales, const Codes256& y) {
    __m256i even = _mm256_setzero_si256(), odd = even;
    for (int i = 0; i < 8; i += 2) {
        even = add_pairs(even, scales[i], _mm256_maddubs_epi16(codes[i], bytes(y.codes + 32 * i)));
        odd = add_pairs(odd, scales[i + 1], _mm256_maddubs_epi16(codes[i + 1], bytes(y.codes + 32 * i + 32)));
    }
    return _mm256_add_epi32(even, odd);
}

struct Q4K {
    using Activations = Codes256;
    static const int TYPE = 12, BLOCK = 256, BYTES = 144;

    template <int COUNT>
    struct Weights {
        __m256i codes[8], scales[8];
        __m128i minima;
        float scale, min_scale;

        explicit Weights(const uint8_t* from) {
            __m128i eight;
            unpack_scales(from + 4, eight, minima);
            const __m256i both = _mm256_set_m128i(eight, eight), low = _mm256_set1_epi8(15);
            for (int i = 0; i < 8; ++i)
                scales[i] = _mm256_shuffle_epi8(both, _mm256_set1_epi16(int16_t(0x0100 + 0x0202 * i)));
            for (int i = 0; i < 4; ++i) {
                const __m256i two = bytes(from + 16 + 32 * i);
                codes[2 * i] = _mm256_and_si256(two, low);
                codes[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16(two, 4), low);
            }
            scale = half_at(from);
            min_scale = half_at(from + 2);
        }

        void add(const Codes256& y, int, Sums& sums) const {
            const __m256 products = _mm256_cvtepi32_ps(scaled_products(codes, scales, y));
            sums.products = _mm256_fmadd_ps(_mm256_set1_ps(y.scale * scale), products, sums.products);
            const __m128 offsets = _mm_cvtepi32_ps(_mm_madd_epi16(minima, half_of_bytes(y.pair_sums)));
            sums.offsets = _mm_fmadd_ps(_mm_set1_ps(-y.scale * min_scale), offsets, sums.offsets);
        }
    };

    static float total(const Sums& sums) {
        const __m128 four = sums.offsets;
        return sums.total() + ((four[0] + four[2]) + (four[1] + four[3]));
    }
};

struct Q6K {
    using Activations = Codes256;
    static const int TYPE = 14, BLOCK = 256, BYTES = 210;

    template <int COUNT>
    struct Weights {
        __m256i codes[8], scales[8], all_scales;
        float scale;

        explicit Weights(const uint8_t* from) {
            const __m256i low = _mm256_set1_epi8(15), high = _mm256_set1_epi8(48);
            for (int i = 0; i < 2; ++i) {
                const __m256i first = bytes(from + 64 * i), second = bytes(from + 64 * i + 32);
                const __m256i upper = bytes(from + 128 + 32 * i);
                const __m256i parts[] = {first, second, _mm256_srli_epi16(first, 4),
                                         _mm256_srli_epi16(second, 4)};
                const __m256i uppers[] = {_mm256_slli_epi16(upper, 4), _mm256_slli_epi16(upper, 2), upper,
                                          _mm256_srli_epi16(upper, 2)};
                for (int j = 0; j < 4; ++j)
                    codes[4 * i + j] =
                        _mm256_or_si256(_mm256_and_si256(parts[j], low), _mm256_and_si256(uppers[j], high));
            }
            const __m128i sixteen = half_of_bytes(from + 192);
            const __m128i order = _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
            for (int i = 0; i < 8; ++i)
                scales[i] = _mm256_cvtepi8_epi16(
                    _mm_shuffle_epi8(sixteen, _mm_add_epi8(order, _mm_set1_epi8(char(2 * i)))));
            all_scales = _mm256_cvtepi8_epi16(sixteen);
            scale = half_at(from + 208);
        }

        void add(const Codes256& y, int, Sums& sums) const {
            // The codes are those of the weights plus 32.
            const __m256i excess = _mm256_slli_epi32(_mm256_madd_epi16(all_scales, bytes(y.sums)), 5);
            const __m256i all = _mm256_sub_epi32(scaled_products(codes, scales, y), excess);
            sums.products =
                _mm256_fmadd_ps(_mm256_set1_ps(y.scale * scale), _mm256_cvtepi32_ps(all), sums.products);
        }
    };

    static float total(const Sums& sums) { return sums.total(); }
};

// COUNT blocks of 32 elements, whose codes have a sign. first: the first block's place in a group.
template <class Format, int COUNT>
struct SignedWeights {
    __m256i codes[COUNT], magnitudes[COUNT];
    float scales[COUNT];

    explicit SignedWeights(const uint8_t* from) {
        for (int i = 0; i < COUNT; ++i) {
            codes[i] = Format::codes(from + Format::BYTES * i);
            magnitudes[i] = _mm256_abs_epi8(codes[i]);
            scales[i] = half_at(from + Format::BYTES * i);
        }
    }

    void add(const Codes32& y, int first, Sums& sums) const {
        for (int i = 0; i < COUNT; ++i) {
            const __m256 products =
                sums_of_four(magnitudes[i], _mm256_sign_epi8(bytes(y.codes[first + i]), codes[i]));
            sums.products =
                _mm256_fmadd_ps(_mm256_set1_ps(scales[i] * y.scales[first + i]), products, sums.products);
        }
    }
};

// The same for codes without a sign, but with a minimum.
template <class Format, int COUNT>
struct UnsignedWeights {
    __m256i codes[COUNT];
    float scales[COUNT], minima[COUNT];

    explicit UnsignedWeights(const uint8_t* from) {
        for (int i = 0; i < COUNT; ++i) {
            codes[i] = Format::codes(from + Format::BYTES * i);
            scales[i] = half_at(from + Format::BYTES * i);
            minima[i] = half_at(from + Format::BYTES * i + 2);
        }
    }

    void add(const Codes32& y, int first, Sums& sums) const {
        for (int i = 0; i < COUNT; ++i) {
            const __m256 products = sums_of_four(codes[i], bytes(y.codes[first + i]));
            sums.products =
                _mm256_fmadd_ps(_mm256_set1_ps(scales[i] * y.scales[first + i]), products, sums.products);
            sums.offsets = _mm_fmadd_ss(_mm_set_ss(minima[i]), _mm_set_ss(y.sums[first + i]), sums.offsets);
        }
    }
};

struct BlocksOf32 {
    using Activations = Codes32;
    static const int BLOCK = 32;
    static float total(const Sums& sums) { return sums.total() + sums.offsets[0]; }
};

struct Q40 : BlocksOf32 {
    static const int TYPE = 2, BYTES = 18;
    template <int COUNT>
    using Weights = SignedWeights<Q40, COUNT>;
    static __m256i codes(const uint8_t* from) {
        return _mm256_sub_epi8(nibbles(from + 2), _mm256_set1_epi8(8));
    }
};

struct Q41 : BlocksOf32 {
    static const int TYPE = 3, BYTES = 20;
    template <int COUNT>
    using Weights = UnsignedWeights<Q41, COUNT>;
    static __m256i codes(const uint8_t* from) { return nibbles(from + 4); }
};

struct Q50 : BlocksOf32 {
    static const int TYPE = 6, BYTES = 22;
    template <int COUNT>
    using Weights = SignedWeights<Q50, COUNT>;
    static __m256i codes(const uint8_t* from) {
        const __m256i all = _mm256_or_si256(nibbles(from + 6), fifth_bits(from + 2, 16));
        return _mm256_sub_epi8(all, _mm256_set1_epi8(16));
    }
};

struct Q51 : BlocksOf32 {
    static const int TYPE = 7, BYTES = 24;
    template <int COUNT>
    using Weights = UnsignedWeights<Q51, COUNT>;
    static __m256i codes(const uint8_t* from) {
        return _mm256_or_si256(nibbles(from + 8), fifth_bits(from + 4, 16));
    }
};

struct Q80 : BlocksOf32 {
    static const int TYPE = 8, BYTES = 34;
    template <int COUNT>
    using Weights = SignedWeights<Q80, COUNT>;
    static __m256i codes(const uint8_t* from) { return bytes(from + 2); }
};

// One row of weights times the rows of a tile.
template <class Format, int COLUMNS>
static void multiply_tile(const uint8_t* row, int64_t blocks, const typename Format::Activations* y,
                          int columns_, Sums* sums_) {
    const int columns = COLUMNS ? COLUMNS : columns_;
    const int per_group = int(Format::Activations::ELEMENTS / Format::BLOCK);
    Sums local[COLUMNS ? COLUMNS : 1];
    Sums* sums = COLUMNS ? local : sums_;
    for (; blocks >= per_group; blocks -= per_group) {
        const typename Format::template Weights<per_group> weights(row);
        for (int column = 0; column < columns; ++column) weights.add(y[column], 0, sums[column]);
        row += per_group * Format::BYTES;
        y += columns;
    }
    for (int block = 0; block < int(blocks); ++block) {  // a part of a group
        const typename Format::template Weights<1> weights(row + block * Format::BYTES);
        for (int column = 0; column < columns; ++column) weights.add(y[column], block, sums[column]);
    }
    if (COLUMNS)
        for (int column = 0; column < columns; ++column) sums_[column] = local[column];
}

template <class Format>
static void multiply_rows(const ProductArgs& args, int64_t first, int64_t end) {
    const int64_t rows = args.y.count, blocks = args.k / Format::BLOCK;
    const int64_t per_group = Format::Activations::ELEMENTS / Format::BLOCK;
    const int64_t groups = (blocks + per_group - 1) / per_group;
    for (int64_t tile = 0; tile < rows; tile += TILE) {
        const int columns = int(rows - tile < TILE ? rows - tile : TILE);
        const auto* y = (const typename Format::Activations*)args.codes + tile * groups;
        for (int64_t at = first; at < end; ++at) {
            Sums sums[TILE];
            const uint8_t* row = args.weights + at * blocks * Format::BYTES;
            if (columns == 1)
                multiply_tile<Format, 1>(row, blocks, y, columns, sums);
            else
                multiply_tile<Format, 0>(row, blocks, y, columns, sums);
            for (int column = 0; column < columns; ++column)
                args.y.row(tile + column)[at] = Format::total(sums[column]);
        }
    }
}

// Threads take chunks of the weight's rows until none is left; the last one resets the counters for the next run.
template <class Format>
static void multiply(const ProductArgs& args, int, int tasks) {
    // Long runs of rows suit the prefetcher.
    const int64_t share = args.y.width / (4 * tasks) / CHUNK * CHUNK;
    const int64_t chunk = share > CHUNK ? share : CHUNK;
    for (;;) {
        const int64_t first = args.progress->taken.fetch_add(1) * chunk;
        if (first >= args.y.width) break;
        multiply_rows<Format>(args, first, first + chunk < args.y.width ? first + chunk : args.y.width);
    }
    if (args.progress->finished.fetch_add(1) + 1 == tasks) {
        args.progress->taken = 0;
        args.progress->finished = 0;
    }
}

template <class Format>
static constexpr ProductKernel kernel() {
    return {Format::TYPE,
            Format::BLOCK,
            Format::BYTES,
            int(Format::Activations::ELEMENTS),
            int(sizeof(typename Format::Activations)),
            Format::BLOCK == 256 ? &quantize_256 : &quantize_32,
            &multiply<Format>};
}

const ProductKernel* find_product(int type) {
    static constexpr ProductKernel kernels[] = {kernel<Q40>(), kernel<Q41>(), kernel<Q50>(), kernel<Q51>(),
                                                kernel<Q80>(), kernel<Q4K>(), kernel<Q6K>()};
    for (const ProductKernel& each : kernels)
        if (each.type == type) return &each;
    return nullptr;
}

#else

const ProductKernel* find_product(int) { return nullptr; }

#endif

}  // namespace vkbackend_cpu::VARIANT
