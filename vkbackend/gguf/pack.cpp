// Packs matrices for devices: rows as a GGUF stores them -> the planes of shaders/quant/README.md.
//
// In: views of the mapped file. Out: codes and scales of some groups of rows, written straight to where the device or
// its upload ring reads them. Several threads work without the GIL. The numpy packing (`QuantFormat.pack` and the
// `split` of each format) defines the layout; tests compare the two bit for bit.
//
// A format is a struct of pack_formats.h: constants and a function `block` that packs one block of the file. It writes
// into the planes of one record (RECORD blocks of 64 rows), in which neighbouring words belong to neighbouring rows.
// These planes are a few KiB: they are filled in the cache and then copied in order, because memory of a GPU that the
// host maps may be slow to write in any other way.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../device/pages.h"
#include "pack_formats.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace py = pybind11;

static const uint64_t ITEM_BYTES = 128 << 10;  // of the file: what a thread takes at a time

using Rows = std::array<const uint8_t*, GROUP>;

// Pack records first ... last - 1 of one group of rows. codes, scales: where the group begins in each plane.
template <class Format>
static void pack_records(const Rows& rows, uint64_t num_blocks, uint64_t first, uint64_t last, uint8_t* codes,
                         uint8_t* scales) {
    Planes planes;
    for (uint64_t record = first; record < last; record++) {
        uint64_t at = record * Format::RECORD;
        uint32_t count = uint32_t(std::min<uint64_t>(Format::RECORD, num_blocks - at));
        if (count < Format::RECORD) std::memset(planes.scales, 0, Format::WORDS * sizeof planes.scales[0]);
        for (uint64_t row = 0; row < GROUP; row++) {
            const uint8_t* in = rows[row] + at * Format::BYTES;
            for (uint32_t ahead = 0; ahead < Format::BYTES * Format::RECORD; ahead += 64)
                __builtin_prefetch(in + Format::BYTES * Format::RECORD + ahead);
            for (uint32_t b = 0; b < count; b++) Format::block(in + b * Format::BYTES, b, planes, row);
        }
        uint64_t codes_bytes = Format::VECTORS * sizeof planes.codes[0];
        std::memcpy(codes + at * codes_bytes, planes.codes, count * codes_bytes);
        std::memcpy(scales + record * Format::WORDS * sizeof planes.scales[0], planes.scales,
                    Format::WORDS * sizeof planes.scales[0]);
    }
}

struct Entry {
    const char* name;
    uint32_t bytes, record, vectors, words;
    decltype(&pack_records<Q4_0>) pack;
};

template <class Format>
static constexpr Entry entry(const char* name) {
    static_assert(Format::RECORD * Format::VECTORS <= MOST_VECTORS && Format::WORDS <= MOST_WORDS);
    return {name, Format::BYTES, Format::RECORD, Format::VECTORS, Format::WORDS, pack_records<Format>};
}

static const Entry ENTRIES[] = {
    entry<Plain<8>>("f32"),    entry<Plain<4>>("f16"),  entry<Plain<4>>("bf16"), entry<Q8_0>("q8_0"),
    entry<Q4_0>("q4_0"),       entry<Q4_1>("q4_1"),     entry<Q5_0>("q5_0"),     entry<Q5_1>("q5_1"),
    entry<Q2_K>("q2_k"),       entry<Q3_K>("q3_k"),     entry<Q4_K>("q4_k"),     entry<Q5_K>("q5_k"),
    entry<Q6_K>("q6_k"),       entry<MXFP4>("mxfp4"),   entry<Q4_0>("iq4_nl"),   entry<IQ4_XS>("iq4_xs"),
    entry<IQ2_XXS>("iq2_xxs"), entry<IQ2_XS>("iq2_xs"), entry<IQ2_S>("iq2_s"),   entry<IQ3_XXS>("iq3_xxs"),
    entry<IQ3_S>("iq3_s"),     entry<IQ1_S>("iq1_s"),   entry<IQ1_M>("iq1_m"),   entry<TQ1_0>("tq1_0"),
    entry<TQ2_0>("tq2_0"),     entry<NVFP4>("nvfp4"),   entry<Q1_0>("q1_0"),
};

static const Entry& entry_of(const std::string& name) {
    for (const Entry& each : ENTRIES)
        if (name == each.name) return each;
    throw std::invalid_argument("no native packing of format " + name);
}

// A matrix: tensors stacked by rows, or, with `lanes`, two whose rows alternate in groups of `lanes`.
struct Matrix {
    std::vector<py::buffer_info> tensors;
    uint64_t lanes, row_bytes;
    std::vector<uint8_t> zeros;  // what a row past the end holds

    Matrix(const std::vector<py::buffer>& raws, uint64_t lanes_) : lanes(lanes_) {
        for (const py::buffer& raw : raws) {
            tensors.push_back(raw.request());
            const py::buffer_info& info = tensors.back();
            if (info.ndim != 2 || info.itemsize != 1 || info.strides[1] != 1 ||
                (info.shape[0] > 1 && info.strides[0] != info.shape[1]))
                throw std::invalid_argument("rows must be contiguous bytes (rows, row_bytes)");
            if (info.shape[1] != tensors[0].shape[1])
                throw std::invalid_argument("the tensors have rows of different sizes");
        }
        if (tensors.empty() || (lanes && (tensors.size() != 2 || tensors[0].shape[0] != tensors[1].shape[0])))
            throw std::invalid_argument("a matrix has a tensor or more, a gated one two of the same shape");
        row_bytes = uint64_t(tensors[0].shape[1]);
        zeros.resize(row_bytes);
    }
    const uint8_t* row(uint64_t at) const {
        if (lanes) {
            const py::buffer_info& tensor = tensors[at / lanes % 2];
            return row_of(tensor, at / (2 * lanes) * lanes + at % lanes);
        }
        for (const py::buffer_info& tensor : tensors) {
            if (at < uint64_t(tensor.shape[0])) return row_of(tensor, at);
            at -= uint64_t(tensor.shape[0]);
        }
        return zeros.data();
    }
    const uint8_t* row_of(const py::buffer_info& tensor, uint64_t at) const {
        if (at >= uint64_t(tensor.shape[0])) return zeros.data();
        return static_cast<const uint8_t*>(tensor.ptr) + at * row_bytes;
    }
};

static uint8_t* target(const py::buffer_info& info, uint64_t num_bytes) {
    if (uint64_t(info.size * info.itemsize) != num_bytes)
        throw std::invalid_argument("a plane of these groups has " + std::to_string(num_bytes) +
                                    " bytes, not " + std::to_string(info.size * info.itemsize));
    return static_cast<uint8_t*>(info.ptr);
}

static void pack(const std::string& format, const std::vector<py::buffer>& raws, uint64_t lanes,
                 uint64_t first_group, uint64_t num_groups, py::buffer codes_buffer, py::buffer scales_buffer,
                 uint32_t num_threads) {
    const Entry& entry = entry_of(format);
    Matrix matrix(raws, lanes);
    if (matrix.row_bytes % entry.bytes) throw std::invalid_argument("rows must be whole blocks");
    uint64_t num_blocks = matrix.row_bytes / entry.bytes;
    uint64_t num_records = (num_blocks + entry.record - 1) / entry.record;
    uint64_t codes_bytes = num_blocks * entry.vectors * GROUP * 16;  // of a group
    uint64_t scales_bytes = num_records * entry.words * GROUP * 4;
    py::buffer_info codes_info = codes_buffer.request(true), scales_info = scales_buffer.request(true);
    uint8_t* codes = target(codes_info, num_groups * codes_bytes);
    uint8_t* scales = target(scales_info, num_groups * scales_bytes);

    // A thread takes some records of a group at a time.
    uint64_t records = std::max<uint64_t>(1, ITEM_BYTES / (GROUP * entry.bytes * entry.record));
    uint64_t items_per_group = (num_records + records - 1) / records;
    std::atomic<uint64_t> next{0};
    auto work = [&] {
        for (uint64_t item = next++; item < num_groups * items_per_group; item = next++) {
            uint64_t group = item / items_per_group, first = item % items_per_group * records;
            uint64_t last = std::min(first + records, num_records);
            uint8_t *group_codes = codes + group * codes_bytes, *group_scales = scales + group * scales_bytes;
            make_pages(group_codes + codes_bytes * first / num_records,
                       codes_bytes * (last - first) / num_records);
            Rows rows;
            for (uint64_t row = 0; row < GROUP; row++)
                rows[row] = matrix.row((first_group + group) * GROUP + row);
            entry.pack(rows, num_blocks, first, last, group_codes, group_scales);
        }
    };
    py::gil_scoped_release release_gil;
    std::vector<std::thread> threads;
    uint64_t most = std::min<uint64_t>(num_threads, num_groups * items_per_group);
    try {
        while (threads.size() + 1 < most) threads.emplace_back(work);
    } catch (const std::system_error&) {  // no more threads: those that there are do the work
    }
    work();
    for (std::thread& thread : threads) thread.join();
}

void define_packing(py::module_& m) {
    py::list names;
    for (const Entry& each : ENTRIES) names.append(each.name);
    m.attr("PACKED_FORMATS") = py::frozenset(names);
    m.def("pack", &pack);
}
