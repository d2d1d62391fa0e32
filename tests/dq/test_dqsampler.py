import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rqjax.dq import sample
from rqjax.dq.sequence import to_rows
from rqjax.errors import InputError
from rqjax.mesh import make_mesh
from rqjax.nets.sampling import Draw
from tests.small_dq import random_codes, small_config, strong

KEY = jax.random.key(0)
GREEDY = Draw(temperature=0.0)
PLAIN = Draw()
GRIDS = [(2, 4), (2, 4, 8)]


def make(grids, order="row-first", **changes):
    config = small_config(grids=grids, order=order, block_size=80, dim=32, **changes)
    config.check()
    return strong(config.init(jax.random.key(3)))


@pytest.fixture(scope="module", params=GRIDS, ids=["dual", "triple"])
def model(request):
    return make(request.param)


@pytest.fixture(scope="module")
def dual():
    return make(GRIDS[0])


def walk(layout, rows, codes, label, fixed):
    """Follows one image's sequence with rules written out plainly; says which positions were open at each token.

    Asserts that every token is one that the rules allow, and that the codes are those that the sequence describes.
    """
    fine = layout.grids[-1]
    taken, drawn = np.full((fine, fine), -1), np.zeros((fine, fine), int)
    grain, last, ended = 0, len(layout.grids) - 1, True
    choices = []
    tokens, length = rows.tokens, int(np.sum(rows.image == 0))
    np.testing.assert_array_equal(rows.image, np.where(np.arange(len(rows.image)) < length, 0, -1))
    for t in range(length):
        content, position = int(tokens.content[t]), int(tokens.position[t])
        if ended:
            assert (content, position) == (layout.content_start + label, layout.position_start[grain] + label)
            assert int(tokens.grain[t]) == grain
            ended = False
            choices.append(None)
            continue
        assert int(tokens.grain[t]) == grain
        grid, block = layout.grids[grain], fine // layout.grids[grain]
        cut = lambda cell: np.s_[cell // grid * block :, cell % grid * block :][0:2]  # noqa: B023, E731
        squares = [taken[cut(cell)][:block, :block] for cell in range(grid * grid)]
        open_cells = [cell for cell in range(grid * grid) if np.all(squares[cell] < 0)]
        side = fine // layout.grids[0]
        regions = taken.reshape(layout.grids[0], side, layout.grids[0], side).swapaxes(1, 2).reshape(-1, side * side)
        whole = np.all([np.all(r < 0) or np.all(r >= 0) for r in regions])
        may_end = not open_cells if grain == last else whole
        options = open_cells + [layout.position_end[grain]] * bool(may_end)
        assert position in options
        if fixed and grain == last and open_cells:
            assert position == next(cell for cell in layout.visited(last) if cell in open_cells)
            options = None
        choices.append(options)
        if position == layout.position_end[grain]:
            assert content == layout.content_end
            assert (grain == last) == (t == length - 1)
            grain, ended = min(grain + 1, last), True
        else:
            assert 0 <= content < layout.codebook_size
            squares[position][...] = grain
            drawn[cut(position)][:block, :block] = content
    assert np.all(taken >= 0)  # every cell once: a taken one was never open
    np.testing.assert_array_equal(codes.codes, drawn)
    side = fine // layout.grids[0]
    np.testing.assert_array_equal(np.asarray(codes.grain).repeat(side, 0).repeat(side, 1), taken)
    assert np.all(tokens.content[length:] == layout.content_pad)
    return choices


def each(batch, i):
    return jax.tree.map(lambda x: np.asarray(x[i]), batch)


@pytest.mark.parametrize("fixed", [True, False])
def test_every_cell_is_covered_exactly_once(model, fixed):
    labels = jnp.arange(96) % 3
    rows, codes = model.generate_rows(labels, KEY, [PLAIN, Draw(temperature=5.0)], fixed)
    for i in range(12):
        walk(model.config.layout, each(rows, i), each(codes, i), int(labels[i]), fixed)
    shares = [int(np.sum(np.asarray(codes.grain) == g)) for g in range(len(model.config.layout.grids))]
    assert min(shares) > 0
    lengths = rows.filled.sum(1)
    assert len(np.unique(lengths)) > 2
    np.testing.assert_array_equal(lengths, np.sum(4 ** np.asarray(codes.grain), (1, 2)) + 2 * len(shares))


@pytest.mark.parametrize("order", ["row-first", "region-first"])
def test_fixed_positions_follow_the_order_of_the_layout(order):
    model = make((2, 4), order)
    rows, codes = model.generate_rows(jnp.arange(3), KEY, [PLAIN, Draw(temperature=3.0)])
    for i in range(3):
        walk(model.config.layout, each(rows, i), each(codes, i), i, True)


@pytest.mark.parametrize("fixed", [True, False])
def test_greedy_tokens_are_the_likeliest_of_the_uncached_forward(model, fixed):
    labels = jnp.arange(3)
    rows, codes = model.generate_rows(labels, KEY, GREEDY, fixed)

    @jax.jit
    def forward(network):
        outputs = network(rows.tokens, rows.image)
        return network.position_head(outputs[0]), network.content_head(outputs[1])

    positions, contents = (np.asarray(x) for x in forward(model.network))
    checked = 0
    for i in range(3):
        row = each(rows, i)
        choices = walk(model.config.layout, row, each(codes, i), i, fixed)
        for t in range(1, len(choices)):
            if choices[t] is not None:
                checked += len(choices[t]) > 1
                assert row.tokens.position[t] == choices[t][np.argmax(positions[i, t - 1, choices[t]])]
            if row.tokens.content[t] < model.config.layout.codebook_size:
                assert row.tokens.content[t] == np.argmax(contents[i, t - 1, : model.config.layout.codebook_size])
    assert checked > 3
    assert len(np.unique(codes.codes)) > 2


def test_a_row_does_not_depend_on_the_others(dual):
    many = dual.generate(None, jnp.array([1, 2, 0, 2]), KEY, PLAIN)
    few = dual.generate(None, jnp.array([1, 2]), KEY, PLAIN)
    np.testing.assert_array_equal(many.codes[:2], few.codes)
    np.testing.assert_array_equal(many.grain[:2], few.grain)
    same = dual.generate(None, jnp.array([1, 1, 1, 1]), KEY, PLAIN)
    assert len(np.unique(same.codes, axis=0)) > 1


def test_new_settings_compile_nothing(dual):
    labels = jnp.array([1, 2])
    dual.generate(None, labels, KEY, PLAIN)
    before = sample.generate._cache_size()
    for draws in (GREEDY, [Draw(top_k=3), Draw(top_p=0.5)], Draw(top_k=2, top_p=0.9)):
        dual.generate(None, labels, jax.random.key(1), draws)
        dual.generate(None, labels, KEY, draws, fixed_positions=False)
    dual.generate_rows(labels, KEY, GREEDY, limit=5)
    assert sample.generate._cache_size() == before


def test_settings_act_on_their_stream(dual):
    labels = jnp.arange(3)
    assert dual.config.streams == ("contents", "positions")
    greedy = dual.generate_rows(labels, KEY, GREEDY)
    hot = dual.generate_rows(labels, KEY, [Draw(temperature=5.0), GREEDY])
    np.testing.assert_array_equal(hot[0].tokens.position[:, 1], greedy[0].tokens.position[:, 1])
    assert not np.array_equal(hot[1].codes, greedy[1].codes)
    moved = dual.generate_rows(labels, KEY, [GREEDY, Draw(temperature=5.0)])
    assert not np.array_equal(moved[0].tokens.position[:, 1], greedy[0].tokens.position[:, 1])


def test_draws_follow_the_logits(dual):
    """The first position's frequencies over many rows equal the softmax of the logits that the rules leave."""
    labels = jnp.full(2000, 2)
    rows, _ = dual.generate_rows(labels, KEY, PLAIN, limit=2)
    outputs, _ = dual.network(jax.tree.map(lambda x: x[:1, :2], rows.tokens), jnp.zeros((1, 2), jnp.int32))
    logits = dual.network.position_head(outputs)[0, 0]
    allowed = np.array([0, 1, 2, 3, dual.config.layout.position_end[0]])
    expected = jax.nn.softmax(logits[allowed])
    found = np.bincount(rows.tokens.position[:, 1], minlength=len(logits))
    np.testing.assert_allclose(found[allowed] / 2000, expected, atol=0.04)
    assert np.sum(found) == np.sum(found[allowed])


def test_an_unconditional_model_ignores_labels():
    model = make((2, 4), classes=0)
    one, two = (model.generate(None, labels, KEY, PLAIN) for labels in (np.array([0, 7]), np.array([3, 1])))
    np.testing.assert_array_equal(one.codes, two.codes)
    assert np.max(one.codes) < model.config.layout.codebook_size


def test_eight_devices_draw_what_one_does(dual):
    """Rows over "data", heads over "model"."""
    labels = jnp.arange(8) % 3
    expected = dual.generate(None, labels, KEY, PLAIN)
    mesh = make_mesh("4x2")
    with jax.set_mesh(mesh):
        split = jax.device_put(labels, NamedSharding(mesh, PartitionSpec("data")))
        model, key = jax.device_put((dual, KEY), NamedSharding(mesh, PartitionSpec()))
        found = model.generate(None, split, key, PLAIN)
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.grain, expected.grain)


@pytest.mark.parametrize(
    ("labels", "draws", "message"),
    [
        (np.array([1, 3]), PLAIN, "label 3 is out of range: this model has 3, from 0 to 2"),
        (np.array([-1]), PLAIN, "label -1 is out of range"),
        (np.array([1]), [PLAIN, Draw(temperature=float("nan"))], "temperature of positions is nan"),
        (np.array([1]), [Draw(top_k=-1), PLAIN], "top_k of contents is -1"),
        (np.array([1]), [PLAIN] * 3, "3 settings of sampling: give one, or one for each of contents, positions"),
    ],
)
def test_what_cannot_be_drawn_is_refused(dual, labels, draws, message):
    with pytest.raises(InputError, match=message):
        dual.generate(None, labels, KEY, draws)


def test_the_method_runs_inside_a_program(dual):
    """As the previews of a training step do; labels cannot be looked at there."""
    labels, draw = jnp.array([1, 2]), Draw(top_k=4)
    found = jax.jit(lambda model, labels: model.generate(None, labels, KEY, draw))(dual, labels)
    expected = dual.generate(None, labels, KEY, draw)
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.grain, expected.grain)


@pytest.mark.parametrize("order", ["row-first", "region-first"])
@pytest.mark.parametrize("grids", [(4, 8), (2, 4, 8)])
def test_codes_survive_becoming_a_sequence_and_being_written_from_it(grids, order):
    """What training reads, the sampler's writes make into the same maps, whatever the share of each grain."""
    config = small_config(grids=grids, order=order, block_size=80, codebook_size=50)
    layout = config.layout
    shares = [
        np.eye(len(grids))[0],
        *np.random.default_rng(0).dirichlet(np.ones(len(grids)), 6),
        np.eye(len(grids))[-1],
    ]
    codes = random_codes(layout, shares)
    assert {int(x.max()) for x in (codes.grain[0], codes.grain[-1])} == {0, len(grids) - 1}
    rows = to_rows(codes, jnp.arange(8) % 3, layout)
    network = jax.jit(config.init)(KEY).network

    @jax.jit
    def written(tokens):
        state = sample.start(layout, network, tokens.content[:, 0] - layout.content_start)
        write = lambda state, token: (sample.write(layout, state, token, state.caches), None)  # noqa: E731
        following = jax.tree.map(lambda x: jnp.moveaxis(x[:, 1:], 1, 0), tokens)
        return jax.lax.scan(write, state, following)[0]

    state = written(rows.tokens)
    assert bool(state.done.all())
    assert not bool(state.free.any())
    jax.tree.map(np.testing.assert_array_equal, state.rows, rows)
    found = sample.codes_of(layout, state)
    np.testing.assert_array_equal(found.codes, codes.codes)
    np.testing.assert_array_equal(found.grain, codes.grain)
