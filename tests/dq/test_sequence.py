import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.dq.packing import gather, pack, scatter, sufficient_rows
from rqjax.dq.sequence import ORDERS, Stream, from_streams, join, sequence_layout, to_streams

SCALARS = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "dq" / "scalars.json").read_text())["permuter"]
GRIDS = [(4, 8), (2, 4, 8)]


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
    return jnp.asarray(codes, jnp.int32), jnp.asarray(grain, jnp.int32)


def official_layout(grids, order, content, coarse, fine):
    return dataclasses.replace(
        sequence_layout(grids, content, 0, order),
        content_pad=content,
        content_eos=content + 1,
        content_sos=content + 2,
        position_pad=(coarse, fine),
        position_eos=(coarse + 1, fine + 1),
        position_sos=(coarse + 2, fine + 2),
    )


def assert_streams(streams, expected):
    for stream, name in zip(streams, ("coarse", "fine"), strict=True):
        content, position = np.asarray(expected(f"{name}_content")), np.asarray(expected(f"{name}_position"))
        width = content.shape[1]
        np.testing.assert_array_equal(stream.content[:, :width], content)
        np.testing.assert_array_equal(stream.position[:, :width], position)
        assert int(stream.length.max()) == width


@pytest.mark.parametrize("order", ORDERS)
def test_golden_scalars(order):
    layout = official_layout((2, 4), order, 1024, 256, 1024)
    codes, grain = jnp.asarray(SCALARS["codes"]), jnp.asarray(SCALARS["grain"])
    streams = to_streams(codes, grain, layout)
    assert_streams(streams, lambda name: SCALARS[order][name])
    np.testing.assert_array_equal(from_streams(streams, layout)[0], codes)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", range(4))
def test_golden_maps(golden, case, order):
    data, meta = golden("dq/permuter").data, golden("dq/permuter").meta
    grids, size = (meta["coarse_hw"], meta["fine_hw"]), meta["codebook_size"]
    layout = official_layout(grids, order, size, grids[0] ** 2, grids[1] ** 2)
    codes, grain = jnp.asarray(data[f"codes_{case}"]), jnp.asarray(data[f"grain_{case}"])
    streams = to_streams(codes, grain, layout)
    assert_streams(streams, lambda name: data[f"{order}_{case}_{name}"])
    np.testing.assert_array_equal(from_streams(streams, layout)[0], codes)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("grids", GRIDS)
def test_round_trip(grids, order):
    layout = sequence_layout(grids, 50, 0, order)
    both = jax.jit(lambda codes, grain: from_streams(to_streams(codes, grain, layout), layout))
    for seed in range(3):
        codes, grain = random_maps(np.random.default_rng(seed), grids, batch=9)
        assert int(grain[0].max()) == 0
        assert int(grain[-1].min()) == len(grids) - 1
        found, found_grain, coverage = both(codes, grain)
        np.testing.assert_array_equal(found, codes)
        np.testing.assert_array_equal(found_grain, grain)
        assert (np.asarray(coverage) == 1).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("grids", GRIDS)
def test_lengths_and_ids(grids, order):
    layout = sequence_layout(grids, 50, 3, order)
    codes, grain = random_maps(np.random.default_rng(5), grids, batch=6)
    streams = to_streams(codes, grain, layout)
    regions = sum((s.length - 1) / 4**g for g, s in enumerate(streams))
    np.testing.assert_array_equal(regions, grids[0] ** 2)
    for g, stream in enumerate(streams):
        assert stream.content.shape[1] == grids[g] ** 2 + 1
        for row in range(6):
            n = int(stream.length[row])
            ids = np.asarray(stream.position[row])
            assert len(set(ids[: n - 1])) == n - 1
            assert ids[n - 1] == layout.position_eos[g]
            assert (ids[n:] == layout.position_pad[g]).all()
            if order == "row-first":
                assert (np.diff(ids[: n - 1]) > 0).all()
            assert stream.content[row, n - 1] == layout.content_eos


def test_region_first_keeps_a_region_together():
    layout = sequence_layout((2, 4, 8), 9, 0, "region-first")
    cells = layout.cells(2).reshape(4, 16)
    assert cells[1].tolist() == [8 * y + x for y in range(4) for x in range(4, 8)]
    assert layout.cells(1).reshape(4, 4)[2].tolist() == [8, 9, 12, 13]


def stream(pairs, capacity, eos=None):
    content, position = np.full((1, capacity), 77), np.full((1, capacity), 99)
    for slot, (where, what) in enumerate(pairs):
        position[0, slot], content[0, slot] = where, what
    if eos is not None:
        position[0, len(pairs)] = eos
    return Stream(
        content=jnp.asarray(content, jnp.int32),
        position=jnp.asarray(position, jnp.int32),
        length=jnp.asarray([len(pairs) + 1]),
    )


def test_what_follows_the_end_is_dropped_and_later_pairs_win():
    layout = sequence_layout((2, 4), 50, 0, "row-first")
    coarse = stream([(0, 1), (3, 2), (0, 5), (layout.position_eos[0], 9), (1, 8)], 6)
    fine = stream([(0, 7), (2, 3), (2, 4)], 17, layout.position_eos[1])
    codes, grain, coverage = from_streams((coarse, fine), layout)
    assert codes[0].tolist() == [[7, 5, 4, 0], [5, 5, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]]
    assert grain[0].tolist() == [[1, 1], [0, 0]]
    assert coverage[0].tolist() == [[2, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("grids", GRIDS)
def test_joined_sequences_hold_the_streams_without_gaps(grids):
    layout = sequence_layout(grids, 50, 4, "row-first")
    codes, grain = random_maps(np.random.default_rng(2), grids, batch=5)
    labels = jnp.asarray([0, 1, 2, 3, 1])
    streams = to_streams(codes, grain, layout)
    tokens = jax.jit(lambda s, y: join(s, y, layout))(streams, labels)
    assert tokens.content.shape == (5, layout.capacity)
    assert int(tokens.length[-1]) == layout.capacity  # all fine: nothing longer exists
    for row in range(5):
        content, position, segment = [], [], []
        for g, s in enumerate(streams):
            n, y = int(s.length[row]), int(labels[row])
            content += [layout.content_sos + y, *s.content[row, :n].tolist()]
            position += [layout.position_sos[g] + y, *s.position[row, :n].tolist()]
            segment += [g] * (n + 1)
        n = int(tokens.length[row])
        assert tokens.content[row, :n].tolist() == content
        assert tokens.position[row, :n].tolist() == position
        assert tokens.grain[row, :n].tolist() == segment
        assert (np.asarray(tokens.content[row, n:]) == layout.content_pad).all()
        assert max(content) < layout.content_size
        assert all(
            max(p for p, s in zip(position, segment, strict=True) if s == g) < layout.position_sizes[g] for g in segment
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grids": (4, 12)}, "do not double"),
        ({"order": "column-first"}, "unknown"),
        ({"content_eos": 49}, "special content"),
        ({"content_sos": 51}, "special content"),
        ({"position_pad": (15, 64)}, "grain 0"),
        ({"position_eos": (17, 64)}, "grain 1"),
        ({"position_eos": (17,)}, "one of each per grain"),
        ({"classes": -1}, "positive"),
    ],
)
def test_layouts_that_disagree_are_refused(change, message):
    layout = sequence_layout((4, 8), 50, 0, "row-first")
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(layout, **change).check()


def test_maps_of_another_size_are_refused():
    with pytest.raises(ValueError, match="do not fit grids"):
        to_streams(
            jnp.zeros((1, 4, 4), jnp.int32), jnp.zeros((1, 2, 2), jnp.int32), sequence_layout((4, 8), 9, 0, ORDERS[0])
        )


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
        assert float(packing.waste) < 0.1
        assert float(packing.waste) == pytest.approx(
            1 - int(lengths.sum()) / (int(packing.used) * 2 * longest), abs=1e-6
        )
        unpacked = 1 - int(lengths.sum()) / (64 * longest)
        assert unpacked > 3 * float(packing.waste)


def test_equal_lengths_waste_nothing():
    packing = pack(jnp.full(12, 40), 4, 120)
    assert float(packing.waste) == 0
    assert int(packing.used) == 4
    assert bool(packing.placed.all())


def test_packed_tokens_come_back_and_rows_do_not_overlap():
    rng = np.random.default_rng(0)
    lengths = jnp.asarray(rng.integers(1, 31, 20), jnp.int32)
    tokens = jnp.where(jnp.arange(30) < lengths[:, None], jnp.asarray(rng.integers(1, 1000, (20, 30))), 0).astype(
        jnp.int32
    )
    rows = sufficient_rows(20, 30, 64)
    packing = jax.jit(pack, static_argnums=(1, 2))(lengths, rows, 64)
    packed = gather(packing, tokens, -1)
    assert int((packed >= 0).sum()) == int(lengths.sum())
    np.testing.assert_array_equal(scatter(packing, packed.astype(jnp.float32), 30), tokens)
    filled = np.asarray(packing.filled).any(1)
    assert filled[: int(packing.used)].all()
    assert not filled[int(packing.used) :].any()
    for i in range(20):
        row, start, n = int(packing.row[i]), int(packing.offset[i]), int(lengths[i])
        np.testing.assert_array_equal(packed[row, start : start + n], tokens[i, :n])
        np.testing.assert_array_equal(packing.index[row, start : start + n], np.arange(n))


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
    assert packing.row.tolist() == [0, 1, 0, 2]
    assert int(packing.filled.sum()) == 15


def test_a_sequence_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="longer rows"):
        sufficient_rows(3, 11, 10)
