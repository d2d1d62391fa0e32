"""Sequences of tokens and their packing into rows; the official permuter's streams are the grains of a sequence."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.dq.packing import gather, pack, sufficient_rows
from rqjax.dq.sequence import ORDERS, Rows, SequenceLayout, Tokens, to_rows
from rqjax.errors import InputError
from rqjax.quantize.dynamic import Codes

SCALARS = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "dq" / "scalars.json").read_text())["permuter"]
GRIDS = [(4, 8), (2, 4, 8)]


def make_layout(grids, size=50, starts=1, order="row-first"):
    layout = SequenceLayout(grids=grids, codebook_size=size, starts=starts, order=order)
    layout.check()
    return layout


def random_maps(rng, grids, batch, codebook_size=50):
    """Grains of every share from none to all, and codes that repeat over the blocks of their grain."""
    n, grains = grids[0], len(grids)
    share = np.linspace(0, 1, batch)[:, None, None]
    grain = np.where(rng.random((batch, n, n)) < share, rng.integers(0, grains, (batch, n, n)), 0)
    grain[-1] = grains - 1
    codes = rng.integers(0, codebook_size, (batch, grids[-1], grids[-1]))
    spread = lambda x, r: x.repeat(r, 1).repeat(r, 2)  # noqa: E731
    full = spread(grain, 2 ** (grains - 1))
    for g in range(grains):
        block = grids[-1] // grids[g]
        codes = np.where(full == g, spread(codes[:, ::block, ::block], block), codes)
    return Codes(codes=jnp.asarray(codes, jnp.int32), grain=jnp.asarray(grain, jnp.int32))


def streams(rows, image, layout):
    """The contents and positions of one image by grain, without its start tokens, with which each grain begins."""
    n = int(rows.filled[image].sum())
    assert rows.filled[image, :n].all()
    grain = np.asarray(rows.tokens.grain[image, :n])
    assert (np.diff(grain) >= 0).all()
    for g in range(layout.grains):
        own = np.flatnonzero(grain == g)
        content, position = (np.asarray(x[image, own]) for x in (rows.tokens.content, rows.tokens.position))
        assert (content[0], position[0]) == (layout.content_start, layout.position_start[g])
        yield content[1:], position[1:]


def assert_streams(rows, layout, expected, ends):
    """Every image has the official streams, up to their end; the official ids of ends are `ends`, by grain."""
    for image in range(rows.image.shape[0]):
        for g, (content, position) in enumerate(streams(rows, image, layout)):
            name = ("coarse", "fine")[g]
            theirs = {part: np.asarray(expected(f"{name}_{part}"))[image] for part in ("content", "position")}
            last = int(np.argmax(theirs["position"] == ends[g]))
            ours = np.where(position == layout.position_end[g], ends[g], position)
            np.testing.assert_array_equal(content, theirs["content"][: last + 1])
            np.testing.assert_array_equal(ours, theirs["position"][: last + 1])
            assert content[-1] == layout.content_end
            assert len(set(theirs["position"][last + 1 :])) <= 1  # pads


@pytest.mark.parametrize("order", ORDERS)
def test_golden_scalars(order):
    layout = make_layout((2, 4), 1024, order=order)
    codes = Codes(codes=jnp.asarray(SCALARS["codes"]), grain=jnp.asarray(SCALARS["grain"]))
    rows = to_rows(codes, jnp.zeros(codes.codes.shape[0], jnp.int32), layout)
    assert_streams(rows, layout, lambda name: SCALARS[order][name], (257, 1025))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", range(4))
def test_golden_maps(golden, case, order):
    data, meta = golden("dq/permuter").data, golden("dq/permuter").meta
    layout = make_layout((meta["coarse_hw"], meta["fine_hw"]), meta["codebook_size"], order=order)
    codes = Codes(codes=jnp.asarray(data[f"codes_{case}"]), grain=jnp.asarray(data[f"grain_{case}"]))
    rows = to_rows(codes, jnp.zeros(codes.codes.shape[0], jnp.int32), layout)
    assert_streams(rows, layout, lambda name: data[f"{order}_{case}_{name}"], layout.position_end)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("grids", GRIDS)
def test_a_sequence_is_the_list_of_its_tokens(grids, order):
    """Written out one token after the other: start, cells in the layout's order and end of each grain, then pads."""
    layout = make_layout(grids, starts=4, order=order)
    codes, labels = random_maps(np.random.default_rng(2), grids, batch=6), jnp.asarray([0, 1, 2, 3, 1, 2])
    rows = jax.jit(lambda codes, labels: to_rows(codes, labels, layout))(codes, labels)
    assert rows.image.shape == (6, layout.capacity)
    assert bool(rows.filled[-1].all())  # all fine: nothing longer exists
    assert int(codes.grain[0].max()) == 0
    for image in range(6):
        tokens = []
        for g, grid in enumerate(grids):
            tokens.append((layout.content_start + int(labels[image]), layout.position_start[g] + int(labels[image]), g))
            block, region = grids[-1] // grid, 2**g
            for cell in layout.visited(g):
                y, x = divmod(int(cell), grid)
                if codes.grain[image, y // region, x // region] == g:
                    tokens.append((int(codes.codes[image, y * block, x * block]), int(cell), g))
            tokens.append((layout.content_end, layout.position_end[g], g))
        n = len(tokens)
        assert max(content for content, _, _ in tokens) < layout.content_size
        assert all(position < layout.position_sizes[g] for _, position, g in tokens)
        pads = [(layout.content_pad, layout.position_pad[-1], layout.grains - 1)] * (layout.capacity - n)
        found = zip(*(np.asarray(x[image]).tolist() for x in (rows.tokens.content, rows.tokens.position)), strict=True)
        found = [(*pair, int(g)) for pair, g in zip(found, rows.tokens.grain[image], strict=True)]
        assert found == tokens + pads
        np.testing.assert_array_equal(rows.tokens.index[image], np.arange(layout.capacity))
        np.testing.assert_array_equal(rows.image[image], [0] * n + [-1] * len(pads))


def test_the_sequence_of_the_module_s_example():
    layout = make_layout((2, 4))
    codes = np.array([[[4, 5, 1, 1], [6, 7, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]])
    rows = to_rows(Codes(codes=jnp.asarray(codes), grain=jnp.asarray([[[1, 0], [0, 0]]])), jnp.zeros(1, int), layout)
    assert int(rows.filled.sum()) == 11
    assert rows.tokens.position[0, :11].tolist() == [6, 1, 2, 3, 5, 18, 0, 1, 4, 5, 17]
    assert rows.tokens.content[0, :11].tolist() == [52, 1, 2, 3, 51, 52, 4, 5, 6, 7, 51]
    assert rows.tokens.grain[0, :11].tolist() == [0] * 5 + [1] * 6


def test_row_first_positions_ascend_and_region_first_keeps_a_region_together():
    assert (np.diff(make_layout((2, 4, 8)).visited(2)) == 1).all()
    layout = make_layout((2, 4, 8), order="region-first")
    cells = layout.visited(2).reshape(4, 16)
    assert cells[1].tolist() == [8 * y + x for y in range(4) for x in range(4, 8)]
    assert layout.visited(1).reshape(4, 4)[2].tolist() == [8, 9, 12, 13]


@pytest.mark.parametrize("grids", GRIDS)
def test_special_ids_are_neither_codes_nor_cells_nor_each_other(grids):
    layout = make_layout(grids, starts=3)
    content = [layout.content_pad, layout.content_end, *range(layout.content_start, layout.content_size)]
    assert sorted(content) == list(range(50, 55))
    for g, grid in enumerate(grids):
        starts = range(layout.position_start[g], layout.position_sizes[g])
        assert sorted([layout.position_pad[g], layout.position_end[g], *starts]) == list(range(grid**2, grid**2 + 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grids": (4, 12)}, "do not double"),
        ({"grids": (4,)}, "give two or three"),
        ({"order": "column-first"}, "order is 'column-first'"),
        ({"codebook_size": 0}, "codebook_size is 0"),
        ({"starts": 0}, "starts is 0"),
    ],
)
def test_layouts_that_make_no_sequence_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(make_layout((4, 8)), **change).check()


def test_maps_of_another_size_are_refused():
    codes = Codes(codes=jnp.zeros((1, 4, 4), jnp.int32), grain=jnp.zeros((1, 2, 2), jnp.int32))
    with pytest.raises(InputError, match="do not fit grids"):
        to_rows(codes, jnp.zeros(1, jnp.int32), make_layout((4, 8)))


def used_and_waste(packing):
    """The number of rows that hold anything, which are the first ones, and the share of their slots that is empty."""
    filled = np.asarray(packing.sequence) >= 0
    used = int(filled.any(1).sum())
    assert filled[:used].any(1).all()
    return used, 1 - filled.sum() / filled[:used].size


@pytest.mark.parametrize("grids", [(16, 32), (8, 16, 32)])
def test_padding_waste_at_mixed_ratios(grids):
    """Images whose shares of fine regions run from none to all, packed into rows of two longest sequences."""
    regions, longest = grids[0] ** 2, grids[-1] ** 2 + 2 * len(grids)
    packer = jax.jit(pack, static_argnums=(1, 2))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        share = rng.dirichlet(np.ones(len(grids)), 64)
        counts = np.stack([rng.multinomial(regions, p) for p in share])
        lengths = jnp.asarray((counts * 4 ** np.arange(len(grids))).sum(1) + 2 * len(grids), jnp.int32)
        packing = packer(lengths, sufficient_rows(64, longest, 2 * longest), 2 * longest)
        assert bool(packing.placed.all())
        used, waste = used_and_waste(packing)
        assert waste < 0.1
        assert waste == pytest.approx(1 - int(lengths.sum()) / (used * 2 * longest), abs=1e-6)
        assert 1 - int(lengths.sum()) / (64 * longest) > 3 * waste


def test_equal_lengths_waste_nothing():
    packing = pack(jnp.full(12, 40), 4, 120)
    assert used_and_waste(packing) == (4, 0)
    assert bool(packing.placed.all())


def test_packed_tokens_come_back_and_rows_do_not_overlap():
    rng, layout = np.random.default_rng(0), make_layout((2, 4))
    lengths = rng.integers(1, 31, 20)
    index = np.broadcast_to(np.arange(30), (20, 30))
    tokens = Tokens(*(jnp.asarray(rng.integers(0, 40, (20, 30)), jnp.int32) for _ in range(3)), jnp.asarray(index))
    sequences = Rows(tokens=tokens, image=jnp.asarray(np.where(index < lengths[:, None], 0, -1)))
    packing = jax.jit(pack, static_argnums=(1, 2))(jnp.asarray(lengths), sufficient_rows(20, 30, 64), 64)
    rows = gather(packing, sequences, layout)
    assert int(rows.filled.sum()) == lengths.sum()
    used_and_waste(packing)
    for i in range(20):
        row, slot = np.nonzero(np.asarray(rows.image) == i)
        assert len(set(row)) == 1
        np.testing.assert_array_equal(slot, slot[0] + np.arange(lengths[i]))
        for name in ("content", "position", "grain", "index"):
            expected = getattr(tokens, name)[i, : lengths[i]]
            np.testing.assert_array_equal(getattr(rows.tokens, name)[row, slot], expected)
    empty = ~np.asarray(rows.filled)
    assert set(np.asarray(rows.tokens.content)[empty]) == {layout.content_pad}
    assert set(np.asarray(rows.tokens.position)[empty]) == {layout.position_pad[-1]}


def test_sufficient_rows_suffice_for_any_lengths():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        longest, length = 10, int(rng.integers(10, 35))
        rows = sufficient_rows(24, longest, length)
        lengths = jnp.asarray(rng.integers(1, longest + 1, 24), jnp.int32)
        assert bool(pack(lengths, rows, length).placed.all())
    assert sufficient_rows(24, 10, 20) == 12
    assert bool(pack(jnp.full(24, 10), 12, 20).placed.all())


def test_what_finds_no_row_is_reported():
    packing = pack(jnp.asarray([6, 6, 3, 6]), 2, 9)
    assert packing.placed.tolist() == [True, True, True, False]
    assert packing.sequence.tolist() == [[0] * 6 + [2] * 3, [1] * 6 + [-1] * 3]


def test_a_sequence_longer_than_a_row_is_refused():
    with pytest.raises(InputError, match="longer rows"):
        sufficient_rows(3, 11, 10)
