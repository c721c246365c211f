#include "pages.h"

#ifdef __linux__
#include <sys/mman.h>
#include <time.h>
#endif

#include <algorithm>
#include <atomic>
#include <mutex>

#ifdef MADV_POPULATE_WRITE

static const uintptr_t PAGE = 4096;          // bytes, or a divisor of a page's bytes
static const uintptr_t HUGE_PAGE = 2 << 20;  // bytes
static const double MOST_SECONDS = 0.0015;   // CPU time of one: 0.0002 if memory is at hand, else 0.0044
static const uint32_t MOST_SKIPPED = 64;     // ranges

static bool advise(uintptr_t begin, uint64_t num_bytes, int advice) {
    return madvise(reinterpret_cast<void*>(begin), num_bytes, advice) == 0;
}

void make_pages(uint8_t* begin, uint64_t num_bytes) {
    static std::atomic<bool> is_possible{true};
    uintptr_t first = uintptr_t(begin) / PAGE * PAGE;
    // The page in the middle tells whether the range was made before: those at its ends may belong to others.
    uint8_t is_there = 0;
    void* middle = reinterpret_cast<void*>((uintptr_t(begin) + num_bytes / 2) / PAGE * PAGE);
    if (!is_possible || (mincore(middle, 1, &is_there) == 0 && is_there & 1)) return;
    if (!advise(first, uintptr_t(begin) + num_bytes - first, MADV_POPULATE_WRITE)) is_possible = false;
}

static double thread_seconds() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

// Returns whether all huge pages within the range were made without a slow one.
static bool try_huge_pages(uint8_t* begin, uint64_t num_bytes) {
    uintptr_t end = uintptr_t(begin) + num_bytes;
    uintptr_t page = (uintptr_t(begin) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    for (double before = thread_seconds(); page + HUGE_PAGE <= end; page += HUGE_PAGE) {
        if (!advise(page, HUGE_PAGE, MADV_HUGEPAGE) || !advise(page, HUGE_PAGE, MADV_POPULATE_WRITE))
            return false;
        double after = thread_seconds();
        if (after - before > MOST_SECONDS) return false;
        before = after;
    }
    return true;
}

void make_huge_pages(uint8_t* begin, uint64_t num_bytes) {
    static std::mutex lock;
    static uint32_t to_skip = 0, skip_next = 1;  // ranges
    {
        std::lock_guard<std::mutex> guard(lock);
        if (to_skip) {
            to_skip--;
            return;
        }
    }
    bool is_fast = try_huge_pages(begin, num_bytes);
    std::lock_guard<std::mutex> guard(lock);
    to_skip = is_fast ? 0 : skip_next;
    skip_next = is_fast ? 1 : std::min(2 * skip_next, MOST_SKIPPED);
}

#else

void make_pages(uint8_t*, uint64_t) {}
void make_huge_pages(uint8_t*, uint64_t) {}

#endif
