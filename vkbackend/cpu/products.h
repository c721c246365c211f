// Activations rounded to 8 bits, as the product kernels read them: groups of blocks, for TILE rows of a step at a time.
#pragma once
#include "kernels.h"

namespace vkbackend_cpu {

const int64_t TILE = 8;  // rows of activations that a row of weights is multiplied with at a time

// 256 elements with one scale. sums: of 16 codes each; pair_sums: of 32.
struct alignas(32) Codes256 {
    static const int64_t ELEMENTS = 256;
    int8_t codes[256];
    int16_t sums[16], pair_sums[8];
    float scale;
};

// Four blocks of 32 elements. The scales are rounded to f16, and so are the sums: scale * sum of a block's codes.
struct alignas(32) Codes32 {
    static const int64_t ELEMENTS = 128;
    int8_t codes[4][32];
    float scales[4], sums[4];
};

// Where group `group` of row `row` is: the rows of a tile alternate.
inline int64_t place_of_codes(int64_t row, int64_t group, int64_t rows, int64_t groups) {
    const int64_t first = row / TILE * TILE, width = rows - first < TILE ? rows - first : TILE;
    return first * groups + group * width + row - first;
}

}  // namespace vkbackend_cpu
