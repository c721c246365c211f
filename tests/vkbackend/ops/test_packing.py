"""Packing matrices for devices: native code against numpy's, bit for bit, and what goes through the upload ring."""

import numpy as np
import pytest

from vkbackend import _native
from vkbackend.device.buffers import Arena
from vkbackend.device.upload_ring import PIECE_BYTES
from vkbackend.ops.packed import FORMATS, PackedMatrix
from vkbackend.ops.packing import NATIVE_FORMATS, pack_groups, packed_rows, place, row_lanes, rows_in_order

GROUP = 64


def random_matrix(name, rows, k, gated=False):
    """Tensors of `rows` rows of random bytes: every code and scale, NaNs among them."""
    kind = FORMATS[name]
    rng = np.random.default_rng(sum(rows) + k)
    raws = [rng.integers(0, 256, (count, k // kind.block_size * kind.type_size), np.uint8) for count in rows]
    return PackedMatrix(name, (sum(rows), k), kind, raws, gated)


def planes(matrix, groups):
    return [np.full(size, 0xA5, np.uint8) for size in matrix.format.packed_shape(groups * GROUP, matrix.shape[1])]


def numpy_packed(matrix, lanes, first, count):
    last = min((first + count) * GROUP, packed_rows(matrix, lanes))
    found = planes(matrix, count)
    matrix.format.pack(rows_in_order(matrix, lanes, first * GROUP, last), *found)
    return found


def native_packed(matrix, lanes, first, count, num_threads):
    found = planes(matrix, count)
    pack_groups(matrix, lanes, num_threads, first, count, found)
    return found


def test_every_format_is_packed_by_native_code():
    assert set(NATIVE_FORMATS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_native_packing_is_numpys(name):
    """Any number of rows, an odd number of blocks, and rows of which one thread packs only some."""
    size = max(32, FORMATS[name].block_size)
    wide = 131072 if size == 256 else 16384 + size
    for rows, k in ((1, 256), (64, 512), (77, 3 * size), (3, wide)):
        matrix = random_matrix(name, [rows], k)
        count = -(-rows // GROUP)
        expected = numpy_packed(matrix, 0, 0, count)
        for num_threads in (1, 5):
            for found, plane in zip(native_packed(matrix, 0, 0, count, num_threads), expected):
                np.testing.assert_array_equal(found, plane)


@pytest.mark.parametrize("name", ["q4_k", "q5_0", "f32"])
@pytest.mark.parametrize("lanes", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("rows", [3, 100, 192])
def test_rows_of_gated_matrices_alternate_by_lanes(name, lanes, rows):
    """Both halves are padded with rows of zero bytes to a multiple of the lanes."""
    matrix = random_matrix(name, [rows, rows], 256, gated=True)
    padded = [np.concatenate([raw, np.zeros((-rows % lanes, raw.shape[1]), np.uint8)]) for raw in matrix.raws]
    in_order = np.stack([raw.reshape(-1, lanes, raw.shape[1]) for raw in padded], axis=1)
    in_order = in_order.reshape(-1, in_order.shape[-1])
    assert packed_rows(matrix, lanes) == len(in_order)
    groups = -(-len(in_order) // GROUP)
    expected = planes(matrix, groups)
    matrix.format.pack(in_order, *expected)
    for found, plane in zip(native_packed(matrix, lanes, 0, groups, 2), expected):
        np.testing.assert_array_equal(found, plane)


@pytest.mark.parametrize("name", ["q6_k", "q8_0"])
def test_stacked_tensors_are_packed_as_one(name):
    matrix = random_matrix(name, [70, 1, 64, 130], 256)
    whole = PackedMatrix(name, matrix.shape, matrix.format, [np.concatenate(matrix.raws)])
    expected = planes(matrix, 5)
    matrix.format.pack(whole.raws[0], *expected)
    for found, plane in zip(native_packed(matrix, 0, 0, 5, 2), expected):
        np.testing.assert_array_equal(found, plane)
    ids = np.array([264, 0, 70, 71, 134, 135])
    np.testing.assert_array_equal(matrix.rows(ids), whole.rows(ids))


@pytest.mark.parametrize("gated", [False, True])
def test_some_groups_of_a_matrix(gated):
    """As loading packs them: piece by piece."""
    matrix = random_matrix("q3_k", [300, 300], 256, gated)
    pieces = [native_packed(matrix, 8, first, min(3, 10 - first), 2) for first in range(0, 10, 3)]
    for found, plane in zip(map(np.concatenate, zip(*pieces)), numpy_packed(matrix, 8, 0, 10)):
        np.testing.assert_array_equal(found, plane)


def test_arguments_that_do_not_fit_are_refused():
    """Native code checks sizes before it writes anything."""
    rows = np.zeros((64, 288), np.uint8)
    codes, scales = (np.zeros(size, np.uint8) for size in FORMATS["q4_k"].packed_shape(64, 512))
    read_only = codes.copy()
    read_only.flags.writeable = False
    for message, arguments in {
        "no native packing of format q9_k": ("q9_k", [rows], 0, 0, 1, codes, scales, 1),
        "whole blocks": ("q4_k", [rows[:, :287].copy()], 0, 0, 1, codes, scales, 1),
        "contiguous": ("q4_k", [rows[:, :144]], 0, 0, 1, codes, scales, 1),
        "different sizes": ("q4_k", [rows, np.zeros((64, 144), np.uint8)], 0, 0, 1, codes, scales, 1),
        "two of the same shape": ("q4_k", [rows], 8, 0, 1, codes, scales, 1),
        f"has {2 * codes.size} bytes, not {codes.size}": ("q4_k", [rows], 0, 0, 2, codes, scales, 1),
        f"has {scales.size} bytes, not {scales.size - 1}": ("q4_k", [rows], 0, 0, 1, codes, scales[1:], 1),
        "read-?only": ("q4_k", [rows], 0, 0, 1, read_only, scales, 1),
    }.items():
        with pytest.raises((ValueError, BufferError), match=message):
            _native.pack(*arguments)
    assert not codes.any() and not scales.any()


def place_and_read(device, matrix):
    """Place a matrix -> the bytes reported, and the planes read back from the device."""
    reports = []
    place(matrix, device, Arena(device, "device"), reports.append)
    device.finish_uploads()
    sizes = [matrix.format.packed_shape(part.num_rows, matrix.shape[1]) for part in matrix.parts]
    return reports, [
        [device.download(buffer, np.uint8, (size,)) for buffer, size in zip((part.quants, part.scales), both)]
        for part, both in zip(matrix.parts, sizes)
    ]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", ["q4_k", "f16"])
def test_a_matrix_goes_through_the_ring_piece_by_piece(discrete_device, name, gated):
    """Both halves of the ring, several times over; the progress counts the bytes of the file."""
    rows = 12000 if name == "q4_k" else 4000
    matrix = random_matrix(name, [rows, rows], 2048, gated)
    groups = packed_rows(matrix, row_lanes(discrete_device)) // GROUP
    reports, [found] = place_and_read(discrete_device, matrix)
    assert len(reports) > 3 and sum(reports) == sum(raw.nbytes for raw in matrix.raws)
    assert discrete_device._upload_ring.num_bytes == 2 * PIECE_BYTES
    for plane, expected in zip(found, numpy_packed(matrix, row_lanes(discrete_device), 0, groups)):
        np.testing.assert_array_equal(plane, expected)


def test_the_ring_grows_for_a_group_that_does_not_fit(discrete_device):
    """64 rows of 40,000 floats take 10 MB."""
    matrix = random_matrix("f32", [70], 40_000)
    _, [found] = place_and_read(discrete_device, matrix)
    for plane, expected in zip(found, numpy_packed(matrix, 0, 0, 2)):
        np.testing.assert_array_equal(plane, expected)
    discrete_device._upload_ring.clear()


def test_devices_that_the_host_sees_hold_the_same(device, discrete_device):
    matrix, other = (random_matrix("q6_k", [777, 123], 1024) for _ in range(2))
    assert [plane.tobytes() for plane in place_and_read(device, matrix)[1][0]] == [
        plane.tobytes() for plane in place_and_read(discrete_device, other)[1][0]
    ]


def test_uploads_of_several_threads_do_not_mix(discrete_device):
    from concurrent.futures import ThreadPoolExecutor

    def upload(seed):
        data = np.random.default_rng(seed).integers(0, 256, PIECE_BYTES + 1000 * seed, np.uint8)
        buffer = Arena(discrete_device, "device").allocate(data.size)
        discrete_device.upload(buffer, data)
        return np.array_equal(discrete_device.download(buffer, np.uint8, data.shape), data)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(upload, range(8)))
