// Pages of memory that is about to be written: one call makes many of them, which costs less than a fault for each.
#pragma once

#include <cstdint>

// Make the pages of a range, of the system's usual size. Does nothing for memory of another kind, or where the system
// cannot do it.
void make_pages(uint8_t* begin, uint64_t num_bytes);

// Make the whole huge pages within a range; the system clears them in less than a third of the time. Stops at the first
// one that takes long: the system moves other pages to make room, or a hypervisor has to find memory first. The rest of
// the range is left as it is, and so are the next ranges: 1, then 2, 4, ... up to 64.
void make_huge_pages(uint8_t* begin, uint64_t num_bytes);
