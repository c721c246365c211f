// The candidates of each row of logits, from the strips of rows.cpp (ops/top_k.py).
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

namespace vkbackend_cpu {

static void candidates_of_row(const CandidatesArgs& args, int64_t row, std::vector<float>& most) {
    const float* strips = args.strips.row(row);
    const float* logits = args.logits.row(row);
    const int64_t count = args.strips.width / 2, width = args.logits.width;
    most.resize(count);
    for (int64_t i = 0; i < count; ++i) most[i] = strips[2 * i];
    const float top = *std::max_element(most.begin(), most.end());
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += strips[2 * i + 1] * std::exp(double(most[i]) - double(top));
    float threshold = -3.4e38f;
    if (args.k <= count) {
        std::nth_element(most.begin(), most.begin() + args.k - 1, most.end(), std::greater<float>());
        threshold = most[args.k - 1];
    }
    const float stats[4] = {float(top + std::log(total)), threshold, top, 0};
    std::memcpy(args.stats.row(row), stats, sizeof stats);
    int32_t* ids = args.ids + row * args.capacity;
    int64_t found = 0;
    for (int64_t strip = 0; strip < count; ++strip) {
        if (!(strips[2 * strip] >= threshold)) continue;
        for (int64_t i = 0; i < 64; ++i) {
            const int64_t at = strip / 64 * 4096 + i / 4 * 256 + strip % 64 * 4 + i % 4;
            if (at >= width || !(logits[at] >= threshold)) continue;
            if (found < args.capacity) ids[found] = int32_t(at);
            ++found;
        }
    }
    args.counts[row] = int32_t(found);
    const int64_t kept = found <= args.capacity ? found : 0;
    std::sort(ids, ids + kept);
    for (int64_t i = 0; i < args.capacity; ++i) {
        if (i >= kept) ids[i] = -1;
        args.values[row * args.capacity + i] = i < kept ? logits[ids[i]] : 0;
    }
}

void find_candidates(const CandidatesArgs& args, int task, int tasks) {
    thread_local std::vector<float> most;
    for (int64_t row = task; row < args.logits.count; row += tasks) candidates_of_row(args, row, most);
}

}  // namespace vkbackend_cpu
