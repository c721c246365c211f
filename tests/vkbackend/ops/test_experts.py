"""Products by expert: which weights they read, and what their bits depend on."""

import numpy as np
import pytest

from vkbackend.ops import OPS, op, packing, pairs_by_expert
from vkbackend.ops.packed import PackedMatrix
from vkbackend.ops.run import prepare, reference, run

EXPERTS, ROWS, K, USED = 6, 48, 96, 2


def weight(seed=3, gated=False):
    return PackedMatrix.random(np.random.default_rng(seed), "f32", EXPERTS * ROWS, K, gated, experts=EXPERTS)


def choices(tokens, seed=1, experts=EXPERTS):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(experts)[:USED] for _ in range(tokens)]).astype(np.int32)


def product(where, x, matrix, ids, tile=1, **attrs):
    order = pairs_by_expert.reference(ids, experts=EXPERTS, tile=tile) if tile > 1 else None
    gate = "silu" if matrix.gated else ""
    given = "expert_matmul", x, matrix, ids, order
    if where == "twin":
        return reference(*given, gate=gate, tile=tile)
    return run(where, *given, gate=gate, tile=tile, **attrs)


@pytest.fixture(params=("twin", "device"))
def place(request):
    return "twin" if request.param == "twin" else request.getfixturevalue("device")


@pytest.mark.parametrize("gated", (False, True))
def test_bits_of_a_token_do_not_depend_on_its_neighbours(place, gated):
    x = np.random.default_rng(0).standard_normal((9, K), np.float32)
    ids, matrix = choices(9), weight(gated=gated)
    together = product(place, x, matrix, ids, tile=8)
    for token in (0, 8):
        alone = product(place, x[token : token + 1], matrix, ids[token : token + 1])
        assert (alone == together[token * USED : (token + 1) * USED]).all()


def test_experts_that_no_token_chose_are_not_read(place):
    x = np.random.default_rng(0).standard_normal((3, K), np.float32)
    ids = choices(3, experts=EXPERTS - 2) + 1  # neither the first expert nor the last
    clean, damaged = weight(gated=True), weight(gated=True)
    for raw in damaged.raws:
        values = raw.view(np.float32)
        values[:ROWS] = values[-ROWS:] = np.nan
    for tokens, tile in ((1, 1), (3, 4)):
        found = product(place, x[:tokens], damaged, ids[:tokens], tile)
        assert (found == product(place, x[:tokens], clean, ids[:tokens], tile)).all()


def test_weights_in_several_parts_give_the_same_bits(device, monkeypatch):
    """No binding holds all experts: each part holds whole ones."""
    x, ids = np.random.default_rng(0).standard_normal((5, K), np.float32), choices(5)
    for gated in (False, True):
        whole = product(device, x, weight(gated=gated), ids, tile=8)
        parts = []

        def place(matrix, *arguments, parts=parts):
            packing.place(matrix, *arguments)
            parts += matrix.parts

        monkeypatch.setattr("vkbackend.ops.run.place", place)
        monkeypatch.setattr(packing, "largest_binding", lambda device, matrix: 4 * K * ROWS * 4)
        split = product(device, x, weight(gated=gated), ids, tile=8)
        monkeypatch.undo()
        halves = 2 if gated else 1
        assert len(parts) > 1 and all(part.first_row % (halves * ROWS) == 0 for part in parts)
        assert (split == whole).all()


def test_a_cut_product_computes_the_same_bits(device, monkeypatch):
    """Slots of a tile may be in several dispatches."""
    x, ids, matrix = np.random.default_rng(0).standard_normal((9, K), np.float32), choices(9), weight()
    whole = product(device, x, matrix, ids, tile=8)
    for slots in (1, 4, 16):
        monkeypatch.setattr(op, "MOST_FLOPS", slots * 2 * ROWS * K)
        assert (product(device, x, matrix, ids, tile=8) == whole).all()


def test_a_step_of_one_token_has_as_many_workgroups_with_any_number_of_experts(device):
    x, ids = np.ones((1, 32), np.float32), np.array([[3, 0]], np.int32)
    groups = set()
    for experts in (16, 256):
        matrix = PackedMatrix.random(np.random.default_rng(0), "f32", experts * 8, 32, experts=experts)
        prepared = prepare(device, OPS["expert_matmul"], [x, matrix, ids], {"tile": 1})
        groups.add(tuple(dispatch.groups for dispatch in prepared.dispatches))
    assert len(groups) == 1


@pytest.mark.parametrize("tokens, used, experts", ((1, 8, 128), (2, 2, 4), (8, 8, 128), (33, 2, 3), (512, 8, 128)))
def test_slots_hold_every_choice_of_experts(tokens, used, experts):
    tile = pairs_by_expert.best_tile(tokens, used, experts)
    slots = pairs_by_expert.num_slots(tokens, used, experts, tile)
    apart = np.arange(tokens * used).reshape(tokens, used) % experts
    alike = np.tile(np.arange(used), (tokens, 1))
    for ids in (apart, alike):
        order = pairs_by_expert.reference(ids.astype(np.int32), experts=experts, tile=tile)
        assert len(order) == slots and sorted(order[order >= 0]) == list(range(tokens * used))
        for block in order.reshape(-1, tile):
            pairs = block[block >= 0]
            assert len(set(ids.ravel()[pairs])) <= 1 and (len(pairs) == 0 or block[0] >= 0)
