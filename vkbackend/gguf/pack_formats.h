// How blocks of each format are packed: structs for pack.cpp, in the order of its ENTRIES.
#pragma once

#include <cstdint>
#include <cstring>

static const uint64_t GROUP = 64;                         // rows, as in shaders/quant/planes.glsl
static const uint32_t MOST_VECTORS = 8, MOST_WORDS = 21;  // uvec4s and scale words of one row's record

struct Planes {
    alignas(64) uint8_t codes[MOST_VECTORS][GROUP][16];
    alignas(64) uint32_t scales[MOST_WORDS][GROUP];
};

template <class Number>
static Number number_at(const uint8_t* bytes) {
    Number value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

static uint32_t word_at(const uint8_t* bytes) { return number_at<uint32_t>(bytes); }
static uint64_t long_at(const uint8_t* bytes) { return number_at<uint64_t>(bytes); }
static void put_long(uint8_t* bytes, uint64_t value) { std::memcpy(bytes, &value, 8); }
static uint64_t repeated(uint8_t byte) { return byte * 0x0101010101010101ull; }

// Transpose 8 x 8 bits: bit i of byte j becomes bit j of byte i (Hacker's Delight, section 7-3).
static uint64_t transposed_bits(uint64_t x) {
    uint64_t swap = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
    x ^= swap ^ (swap << 7);
    swap = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
    x ^= swap ^ (swap << 14);
    swap = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
    return x ^ swap ^ (swap << 28);
}

// The words of 8 blocks' fifth (or third) bits: bit i of byte 4j + c goes to bit 8c + j of word i.
static void put_high_bits(const uint8_t* bytes, Planes& planes, uint32_t first, uint64_t row) {
    uint64_t columns[4];
    for (uint32_t c = 0; c < 4; c++) {
        uint64_t gathered = 0;
        for (uint32_t j = 0; j < 8; j++) gathered |= uint64_t(bytes[4 * j + c]) << 8 * j;
        columns[c] = transposed_bits(gathered);
    }
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t word = 0;
        for (uint32_t c = 0; c < 4; c++) word |= uint32_t(columns[c] >> 8 * i & 255) << 8 * c;
        planes.scales[first + i][row] = word;
    }
}

// The word of one block's fifth bits: bit 4j + c goes to bit 8c + j.
static uint32_t high_bits(uint32_t bits) {
    uint32_t word = 0;
    for (uint32_t c = 0; c < 4; c++) {
        uint32_t some = bits >> c & 0x11111111;  // moved together by pairs, then fours, then eights
        some = (some | some >> 3) & 0x03030303;
        some = (some | some >> 6) & 0x000F000F;
        word |= ((some | some >> 12) & 0xFF) << 8 * c;
    }
    return word;
}

// 32 codes of 4 bits, the low nibbles of 32 bytes or the high ones -> q4_0's order.
static void put_nibbles(const uint8_t* bytes, bool high, uint8_t* out) {
    uint64_t mask = repeated(15);
    for (uint32_t at = 0; at < 16; at += 8) {
        uint64_t low_half = long_at(bytes + at), high_half = long_at(bytes + 16 + at);
        if (high)
            put_long(out + at, (low_half >> 4 & mask) | (high_half & ~mask));
        else
            put_long(out + at, (low_half & mask) | (high_half & mask) << 4);
    }
}

// 256 codes of 2 bits in ggml's order -> blocks of 8 bytes, two in a uvec4.
static void put_bit_pairs(const uint8_t* bytes, Planes& planes, uint64_t row) {
    uint64_t mask = repeated(3);
    for (uint32_t block = 0; block < 8; block++) {
        const uint8_t* chunk = bytes + block / 4 * 32;
        uint32_t shift = block % 4 * 2;
        uint64_t packed = 0;
        for (uint32_t n = 0; n < 4; n++) packed |= (long_at(chunk + 8 * n) >> shift & mask) << 2 * n;
        put_long(planes.codes[block / 2][row] + block % 2 * 8, packed);
    }
}

// Q4_K's and Q5_K's d, dmin, and 12 bytes of six-bit scales and minimums -> words 0 to 4.
static void put_k_scales(const uint8_t* in, Planes& planes, uint64_t row) {
    uint32_t scales = word_at(in + 4), minimums = word_at(in + 8), high = word_at(in + 12);
    uint32_t sc[2] = {scales & 0x3F3F3F3F, (high & 0x0F0F0F0F) | (scales >> 2 & 0x30303030)};
    uint32_t m[2] = {minimums & 0x3F3F3F3F, (high >> 4 & 0x0F0F0F0F) | (minimums >> 2 & 0x30303030)};
    planes.scales[0][row] = word_at(in);
    for (uint32_t t = 0; t < 4; t++) {
        uint32_t two_scales = sc[t / 2] >> t % 2 * 16, two_minimums = m[t / 2] >> t % 2 * 16;
        planes.scales[1 + t][row] = (two_scales & 255) | (two_minimums & 255) << 8 |
                                    (two_scales >> 8 & 255) << 16 | (two_minimums >> 8 & 255) << 24;
    }
}

// The half floats of two blocks in one word.
static void put_half(const uint8_t* in, Planes& planes, uint32_t word, uint64_t row, uint32_t block) {
    std::memcpy(reinterpret_cast<uint8_t*>(&planes.scales[word][row]) + 2 * block, in, 2);
}

// BYTES: of a block of the file. RECORD: blocks. VECTORS: uvec4s of a block's codes. WORDS: scale words of a record.
template <uint32_t VECTORS_>
struct Plain {
    static const uint32_t BYTES = 16 * VECTORS_, RECORD = 1, VECTORS = VECTORS_, WORDS = 0;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        for (uint32_t v = 0; v < VECTORS; v++) std::memcpy(planes.codes[v][row], in + 16 * v, 16);
    }
};

struct Q8_0 {
    static const uint32_t BYTES = 34, RECORD = 2, VECTORS = 2, WORDS = 1;
    static void block(const uint8_t* in, uint32_t b, Planes& planes, uint64_t row) {
        for (uint32_t at = 0; at < 32; at += 8)
            put_long(planes.codes[b * 2 + at / 16][row] + at % 16, long_at(in + 2 + at) ^ repeated(0x80));
        put_half(in, planes, 0, row, b);
    }
};

struct Q4_0 {
    static const uint32_t BYTES = 18, RECORD = 2, VECTORS = 1, WORDS = 1;
    static void block(const uint8_t* in, uint32_t b, Planes& planes, uint64_t row) {
        std::memcpy(planes.codes[b][row], in + 2, 16);
        put_half(in, planes, 0, row, b);
    }
};

struct Q4_1 {
    static const uint32_t BYTES = 20, RECORD = 1, VECTORS = 1, WORDS = 1;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        std::memcpy(planes.codes[0][row], in + 4, 16);
        planes.scales[0][row] = word_at(in);
    }
};

struct Q5_0 {
    static const uint32_t BYTES = 22, RECORD = 2, VECTORS = 1, WORDS = 3;
    static void block(const uint8_t* in, uint32_t b, Planes& planes, uint64_t row) {
        std::memcpy(planes.codes[b][row], in + 6, 16);
        planes.scales[b][row] = high_bits(word_at(in + 2));
        put_half(in, planes, 2, row, b);
    }
};

struct Q5_1 {
    static const uint32_t BYTES = 24, RECORD = 1, VECTORS = 1, WORDS = 2;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        std::memcpy(planes.codes[0][row], in + 8, 16);
        planes.scales[0][row] = high_bits(word_at(in + 4));
        planes.scales[1][row] = word_at(in);
    }
};

struct Q2_K {
    static const uint32_t BYTES = 84, RECORD = 1, VECTORS = 4, WORDS = 5;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        put_bit_pairs(in + 16, planes, row);
        planes.scales[0][row] = word_at(in + 80);
        for (uint32_t t = 0; t < 4; t++) planes.scales[1 + t][row] = word_at(in + 4 * t);
    }
};

struct Q3_K {
    static const uint32_t BYTES = 110, RECORD = 1, VECTORS = 4, WORDS = 13;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        put_bit_pairs(in + 32, planes, row);
        planes.scales[0][row] = number_at<uint16_t>(in + 108);
        uint32_t high = word_at(in + 104);
        for (uint32_t t = 0; t < 4; t++) {
            uint32_t low = word_at(in + 96 + t % 2 * 4) >> t / 2 * 4 & 0x0F0F0F0F;
            uint32_t codes = low | (high >> 2 * t & 0x03030303) << 4;
            uint32_t sign = ~codes & 0x20202020;  // of each code less 32
            planes.scales[1 + t][row] = (codes & 0x1F1F1F1F) | sign | sign << 1 | sign << 2;
        }
        put_high_bits(in, planes, 5, row);
    }
};

struct Q4_K {
    static const uint32_t BYTES = 144, RECORD = 1, VECTORS = 8, WORDS = 5;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        for (uint32_t b = 0; b < 8; b++) put_nibbles(in + 16 + b / 2 * 32, b % 2, planes.codes[b][row]);
        put_k_scales(in, planes, row);
    }
};

struct Q5_K {
    static const uint32_t BYTES = 176, RECORD = 1, VECTORS = 8, WORDS = 13;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        for (uint32_t b = 0; b < 8; b++) put_nibbles(in + 48 + b / 2 * 32, b % 2, planes.codes[b][row]);
        put_k_scales(in, planes, row);
        put_high_bits(in + 16, planes, 5, row);
    }
};

struct Q6_K {
    static const uint32_t BYTES = 210, RECORD = 1, VECTORS = 8, WORDS = 21;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        planes.scales[0][row] = number_at<uint16_t>(in + 208);
        for (uint32_t t = 0; t < 4; t++) planes.scales[1 + t][row] = word_at(in + 192 + 4 * t);
        for (uint32_t b = 0; b < 8; b++) {
            uint32_t half = b / 4, quarter = b % 4;
            put_nibbles(in + 64 * half + 32 * (quarter % 2), quarter / 2, planes.codes[b][row]);
            const uint8_t* high = in + 128 + 32 * half;
            for (uint32_t u = 0; u < 2; u++) {
                uint32_t word = 0;
                for (uint32_t n = 0; n < 4; n++)  // words 2u, 2u + 1, 2u + 4, 2u + 5 of the block
                    word |= (word_at(high + 4 * (2 * u + n % 2 + n / 2 * 4)) >> 2 * quarter & 0x03030303)
                            << 2 * n;
                planes.scales[5 + 2 * b + u][row] = word;
            }
        }
    }
};

struct MXFP4 {
    static const uint32_t BYTES = 17, RECORD = 4, VECTORS = 1, WORDS = 1;
    static void block(const uint8_t* in, uint32_t b, Planes& planes, uint64_t row) {
        std::memcpy(planes.codes[b][row], in + 1, 16);
        std::memcpy(reinterpret_cast<uint8_t*>(&planes.scales[0][row]) + b, in, 1);
    }
};

struct IQ4_XS {
    static const uint32_t BYTES = 136, RECORD = 1, VECTORS = 8, WORDS = 2;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        for (uint32_t b = 0; b < 8; b++) std::memcpy(planes.codes[b][row], in + 8 + 16 * b, 16);
        for (uint32_t t = 0; t < 2; t++) planes.scales[t][row] = word_at(in + 4 * t);
    }
};

// Formats whose bytes stay as they are: codes from byte FIRST on, then words from the bytes AT, where 0 is a half.
template <uint32_t BYTES_, uint32_t FIRST, uint32_t VECTORS_, uint32_t... AT>
struct Copied {
    static const uint32_t BYTES = BYTES_, RECORD = 1, VECTORS = VECTORS_, WORDS = sizeof...(AT);
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        for (uint32_t v = 0; v < VECTORS; v++) std::memcpy(planes.codes[v][row], in + FIRST + 16 * v, 16);
        put_words(in, planes, row);
    }
    static void put_words(const uint8_t* in, Planes& planes, uint64_t row) {
        uint32_t t = 0;
        ((planes.scales[t++][row] = AT ? word_at(in + AT) : number_at<uint16_t>(in)), ...);
    }
};

using IQ2_XXS = Copied<66, 2, 4, 0>;
using IQ2_XS = Copied<74, 2, 4, 0, 66, 70>;
using IQ3_XXS = Copied<98, 2, 4, 0, 66, 70, 74, 78, 82, 86, 90, 94>;
using IQ3_S = Copied<110, 2, 4, 0, 106, 66, 70, 74, 78, 82, 86, 90, 94, 98, 102>;
using IQ1_S = Copied<50, 2, 2, 0, 34, 38, 42, 46>;
using IQ1_M = Copied<56, 0, 2, 48, 52, 32, 36, 40, 44>;

struct IQ2_S : Copied<82, 2, 4, 0, 66, 70, 74, 78> {
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        for (uint32_t b = 0; b < 8; b++)  // four bytes of indices, four of signs
            put_long(planes.codes[b / 2][row] + b % 2 * 8,
                     word_at(in + 2 + 4 * b) | uint64_t(word_at(in + 34 + 4 * b)) << 32);
        put_words(in, planes, row);
    }
};

// Elements d (code - 1) as Q2_K: d is the scale and the minimum of every 16 elements.
static void put_ternary_scales(const uint8_t* d, Planes& planes, uint64_t row) {
    planes.scales[0][row] = number_at<uint16_t>(d) * 0x10001u;
    for (uint32_t t = 1; t < 5; t++) planes.scales[t][row] = 0x11111111;
}

struct TQ2_0 {
    static const uint32_t BYTES = 66, RECORD = 1, VECTORS = 4, WORDS = 5;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        put_bit_pairs(in, planes, row);
        put_ternary_scales(in + 64, planes, row);
    }
};

struct TQ1_0 {
    static const uint32_t BYTES = 54, RECORD = 1, VECTORS = 4, WORDS = 5;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        uint8_t digits[256];
        uint8_t* at = put_digits(in, 32, 5, digits);
        at = put_digits(in + 32, 16, 5, at);
        put_digits(in + 48, 4, 4, at);
        for (uint32_t b = 0; b < 8; b++) {
            uint64_t packed = 0;
            for (uint32_t n = 0; n < 4; n++) packed |= long_at(digits + 32 * b + 8 * n) << 2 * n;
            put_long(planes.codes[b / 2][row] + b % 2 * 8, packed);
        }
        put_ternary_scales(in + 52, planes, row);
    }
    // Digits of base 3: the first ones of `count` bytes, then the second ones, ...
    static uint8_t* put_digits(const uint8_t* bytes, uint32_t count, uint32_t each, uint8_t* out) {
        for (uint32_t power = 1; each > 0; each--, power *= 3)
            for (uint32_t i = 0; i < count; i++) *out++ = uint8_t(uint8_t(bytes[i] * power) * 3u >> 8);
        return out;
    }
};

// As F16. Every product of a scale and a value is a normal half or zero.
struct NVFP4 {
    static const uint32_t BYTES = 36, RECORD = 1, VECTORS = 8, WORDS = 0;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        for (uint32_t i = 0; i < 64; i++) {
            uint32_t part = i / 16, byte = in[4 + part * 8 + i % 8],
                     code = i % 16 < 8 ? byte & 15 : byte >> 4;
            uint16_t bits = half_of(in[part], code);
            std::memcpy(planes.codes[i / 8][row] + i % 8 * 2, &bits, 2);
        }
    }
    static uint16_t half_of(uint32_t scale, uint32_t code) {
        static const uint8_t VALUES[8] = {0, 1, 2, 3, 4, 6, 8, 12};
        uint32_t exponent = scale >> 3 & 15, mantissa = (scale & 7) + (exponent ? 8 : 0);
        uint32_t product = scale == 0x7F ? 0 : mantissa * VALUES[code & 7];  // in units of 2^(exponent - 11)
        uint32_t sign = VALUES[code & 7] ? (code & 8) << 12 : 0;
        if (!product) return uint16_t(sign);
        uint32_t top = 31 - uint32_t(__builtin_clz(product));
        uint32_t half_exponent = top + (exponent ? exponent : 1) + 4;  // bias 15
        return uint16_t(half_exponent << 10 | ((product << (10 - top)) & 1023) | sign);
    }
};

// As Q4_0: codes 7 and 9.
struct Q1_0 {
    static const uint32_t BYTES = 18, RECORD = 1, VECTORS = 4, WORDS = 2;
    static void block(const uint8_t* in, uint32_t, Planes& planes, uint64_t row) {
        for (uint32_t b = 0; b < 4; b++) {
            uint32_t bits = word_at(in + 2 + 4 * b);
            for (uint32_t i = 0; i < 16; i++)
                planes.codes[b][row][i] = uint8_t(0x77 + 2 * (bits >> i & 1) + 32 * (bits >> (i + 16) & 1));
        }
        for (uint32_t t = 0; t < 2; t++) planes.scales[t][row] = number_at<uint16_t>(in) * 0x10001u;
    }
};
