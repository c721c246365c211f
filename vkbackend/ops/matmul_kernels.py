"""The kernels that compute a matrix product, and the choice between them.

In: a device and the shape of a product. Out: `Kernel`: a variant of shaders/variants.toml with its workgroups and
constants. In float32 all of them compute the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..device.context import Device
from .op import BASE_LANES, ceil_div, group_variant

Tile = tuple[int, int] | str  # (rows per lane, tokens per lane) of matmul.comp, SHARED or MATRIX

# (rows per lane, tokens per lane) that shaders/variants.toml builds.
TILES = {
    "base": ((1, 1), (2, 1), (4, 1), (2, 4), (4, 4)),
    "subgroup": ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (8, 2), (2, 4), (4, 4), (8, 4), (4, 8)),
}
TILES["texel"] = TILES["subgroup"]

# shaders/matmul_tile.comp: a tile that the lanes of a workgroup share in shared memory.
SHARED = "shared"
TILE_ROWS = 64
TILE_TOKENS = 32

# shaders/matmul_matrix.comp, float16 only: a square tile made of cooperative matrices.
MATRIX = "matrix"
MATRIX_SIDE = 64
MATRIX_SUBGROUPS = 4
MATRIX_SIZES = ("16x16x16", "8x16x16", "8x8x16", "8x8x8")  # that shaders/variants.toml builds, best first

MAX_SLICES = 8
BLOCK_FOURS = 8  # of a block of 32 weights; shaders/quant/planes.glsl


@dataclass(frozen=True)
class Kernel:
    """shader: variant name. groups: workgroups in x, y, z. constants: specialization constants beyond those that all
    products have. subgroup_size: required size, 0 = any.
    """

    shader: str
    groups: tuple[int, int, int]
    constants: dict[str, int]
    subgroup_size: int = 0


def choose_kernel(
    device: Device,
    format_name: str,
    num_rows: int,
    num_tokens: int,
    *,
    gated: bool,
    tile: Tile | None,
    slices: int,
    precision: str,
) -> Kernel:
    """The kernel for `num_rows` rows of a weight.

    tile: one of TILES, SHARED or MATRIX; None lets `choose_tile` decide. The precisions other than float32 have SHARED
    and, in float16, MATRIX, which is used wherever the device supports it: a measured choice would change a result's
    last bits.
    """
    if tile is None and precision == "float16" and matrix_size(device):
        tile = MATRIX
    if tile == MATRIX:
        lanes = device.info.subgroup_size
        groups = (ceil_div(num_rows, MATRIX_SIDE), ceil_div(num_tokens, MATRIX_SIDE), 1)
        shader = f"matmul_{format_name}_matrix_{matrix_size(device)}"
        return Kernel(shader, groups, {"THREADS": MATRIX_SUBGROUPS * lanes}, lanes)
    if tile == SHARED or precision != "float32":
        groups = (ceil_div(num_rows, TILE_ROWS), ceil_div(num_tokens, TILE_TOKENS), 1)
        shader = f"matmul_{format_name}_tile" + (f"_{precision}" if precision != "float32" else "")
        return Kernel(shader, groups, {"SLICES": slices})
    if tile is None:
        tile = choose_tile(device, num_tokens, num_rows, gated)
    assert not isinstance(tile, str), f"unknown tile {tile!r}"
    rows, tokens = tile
    name = f"matmul_{format_name}_r{rows}_t{tokens}"
    shader, lanes, subgroup_size = group_variant(device, name, lanes=tile_lanes(device, tile))
    groups = (ceil_div(num_rows, lanes * rows), ceil_div(num_tokens, tokens), 1)
    constants = {"THREADS": lanes * slices, "SLICES": slices, "LANES": lanes}
    return Kernel(shader, groups, constants, subgroup_size)


def choose_tile(device: Device, num_tokens: int, num_rows: int, gated: bool) -> tuple[int, int]:
    """Rows and tokens per lane. A CPU driver has few threads and wants the widest tile; a GPU first wants enough
    workgroups.
    """
    tiles = [tile for tile in possible_tiles(device, gated) if tile[1] <= max(num_tokens, 1) or tile[1] == 1]
    enough_groups = 4 if device.info.is_cpu else 1024

    def value(tile: tuple[int, int]) -> tuple[float, float, int]:
        rows, tokens = tile
        groups = ceil_div(num_rows, tile_lanes(device, tile) * rows) * ceil_div(num_tokens, tokens)
        padding = tokens * ceil_div(num_tokens, tokens) / max(num_tokens, 1)
        return min(1.0, groups / enough_groups), -padding if padding > 1.5 else 0, rows * tokens

    return max(tiles, key=value)


def possible_tiles(device: Device, gated: bool) -> Sequence[tuple[int, int]]:
    """The tiles of TILES that models use on this device. With a gated weight each lane needs a row of the gate and one
    of up; the sums of MAX_SLICES slices have to fit into shared memory.
    """
    listed = device.lane_rule.tiles
    room = device.info.limits.max_shared_memory_bytes
    return [
        tile
        for tile in TILES[device.flavor]
        if (not gated or tile[0] % 2 == 0)
        and (listed is None or tile in listed or device.flavor == "base")
        and shared_bytes(device, tile) <= room
    ]


def tile_lanes(device: Device, tile: tuple[int, int]) -> int:
    """The lanes of matmul.comp with this tile."""
    if device.flavor == "base":
        return BASE_LANES
    listed = device.lane_rule.tiles or {}
    return device.info.supported_lanes(listed.get(tile, device.lanes))


def shared_bytes(device: Device, tile: tuple[int, int]) -> int:
    """The shared memory that matmul.comp needs for this tile and several slices (slice_results there). The base
    variants need less than 1 KiB.
    """
    if device.flavor == "base":
        return 0
    rows, tokens = tile
    lanes = tile_lanes(device, tile)
    loads = max(1, BLOCK_FOURS // lanes)
    return 4 * lanes * tokens * (rows + loads)


def num_slices(device: Device, k: int) -> int:
    """Slices of K that are summed separately, for every product with rows of k weights on this device.

    A GPU has lanes for many times the rows of a matrix, and a slice of four blocks or more is worth a subgroup. A CPU
    driver has no lanes to spare, and the base kernels do not slice.
    """
    if device.info.is_cpu or device.flavor == "base":
        return 1
    limits = device.info.limits
    return max(
        1, min(MAX_SLICES, k // 128, limits.max_workgroup_invocations // device.lanes, limits.max_workgroup_subgroups)
    )


def matrix_size(device: Device) -> str | None:
    """M x N x K of the cooperative matrices that MATRIX uses on this device, or None if it cannot use any. Drivers
    with several subgroup sizes support the matrices in some sizes only; their default size is one of these.
    """
    info = device.info
    if (
        device.flavor == "base"
        or device.lanes != info.lanes
        or not device.supports("memory_model")
        or info.limits.max_workgroup_subgroups < MATRIX_SUBGROUPS
        or info.limits.max_workgroup_invocations < MATRIX_SUBGROUPS * info.subgroup_size
    ):
        return None
    return next((size for size in MATRIX_SIZES if device.supports(f"cooperative_matrix_{size}")), None)
