"""The kernels that compute a matrix product, and the choice between them.

In: a device and the shape of a product. Out: `Kernel`: a variant of shaders/variants.toml with its workgroups and
constants. In float32 all of them compute the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..device.context import Device
from .op import ceil_div, group_variant
from .packing import row_lanes

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


@dataclass(frozen=True)
class Kernel:
    """shader: variant name. groups: workgroups in x, y, z. constants: specialization constants beyond those that all
    products have. subgroup_size: required size, 0 = any.
    """

    shader: str
    lanes: int
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
        lanes = row_lanes(device)
        groups = (ceil_div(num_rows, MATRIX_SIDE), ceil_div(num_tokens, MATRIX_SIDE), 1)
        shader = f"matmul_{format_name}_matrix_{matrix_size(device)}"
        return Kernel(shader, lanes, groups, {"THREADS": MATRIX_SUBGROUPS * lanes}, lanes)
    if tile == SHARED or precision != "float32":
        groups = (ceil_div(num_rows, TILE_ROWS), ceil_div(num_tokens, TILE_TOKENS), 1)
        shader = f"matmul_{format_name}_tile" + (f"_{precision}" if precision != "float32" else "")
        return Kernel(shader, row_lanes(device), groups, {"SLICES": slices})
    if tile is None:
        tile = choose_tile(device, num_tokens, num_rows, gated)
    assert not isinstance(tile, str), f"unknown tile {tile!r}"
    rows, tokens = tile
    shader, lanes, subgroup_size = group_variant(device, f"matmul_{format_name}_r{rows}_t{tokens}")
    groups = (ceil_div(num_rows, lanes * rows), ceil_div(num_tokens, tokens), 1)
    return Kernel(shader, lanes, groups, {"THREADS": lanes * slices, "SLICES": slices}, subgroup_size)


def choose_tile(device: Device, num_tokens: int, num_rows: int, gated: bool) -> tuple[int, int]:
    """Rows and tokens per lane. A CPU driver has few threads and wants the widest tile; a GPU first wants enough
    workgroups.
    """
    tiles = [tile for tile in possible_tiles(device, gated) if tile[1] <= max(num_tokens, 1) or tile[1] == 1]
    lanes = row_lanes(device)
    enough_groups = 4 if device.info.is_cpu else 1024

    def value(tile: tuple[int, int]) -> tuple[float, float, int]:
        rows, tokens = tile
        groups = ceil_div(num_rows, lanes * rows) * ceil_div(num_tokens, tokens)
        padding = tokens * ceil_div(num_tokens, tokens) / max(num_tokens, 1)
        return min(1.0, groups / enough_groups), -padding if padding > 1.5 else 0, rows * tokens

    return max(tiles, key=value)


def possible_tiles(device: Device, gated: bool) -> Sequence[tuple[int, int]]:
    """The tiles of TILES that fit. With a gated weight each lane needs a row of the gate and one of up."""
    return [tile for tile in TILES[device.flavor] if not gated or tile[0] % 2 == 0]


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
        or device.lanes != info.subgroup_size
        or not device.supports("memory_model")
        or info.limits.max_workgroup_subgroups < MATRIX_SUBGROUPS
        or info.limits.max_workgroup_invocations < MATRIX_SUBGROUPS * device.lanes
    ):
        return None
    return next((size for size in MATRIX_SIZES if device.supports(f"cooperative_matrix_{size}")), None)
