import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rqjax.dq import sample as dqsampler
from rqjax.dq.sample import DQSamplingOptions, generate, generate_tokens
from rqjax.errors import InputError
from rqjax.mesh import make_mesh
from rqjax.rq.sample import SamplingOptions
from tests.small_dq import small_config, strong

KEY = jax.random.key(0)
GREEDY = DQSamplingOptions(temperature=0.0, position_temperature=0.0)
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


def walk(layout, tokens, codes, label, fixed):
    """Follows one image's sequence with rules written out plainly; says which positions were open at each token.

    Asserts that every token is one that the rules allow, and that the codes are those that the sequence describes.
    """
    fine = layout.grids[-1]
    taken, drawn = np.full((fine, fine), -1), np.zeros((fine, fine), int)
    grain, last, ended = 0, len(layout.grids) - 1, True
    choices = []
    length = int(tokens.length)
    for t in range(length):
        content, position = int(tokens.content[t]), int(tokens.position[t])
        if ended:
            assert (content, position) == (layout.content_sos + label, layout.position_sos[grain] + label)
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
        options = open_cells + [layout.position_eos[grain]] * bool(may_end)
        assert position in options
        if fixed and grain == last and open_cells:
            assert position == next(cell for cell in layout.cells(last) if cell in open_cells)
            options = None
        choices.append(options)
        if position == layout.position_eos[grain]:
            assert content == layout.content_eos
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
    tokens, codes = generate_tokens(model, labels, KEY, DQSamplingOptions(position_temperature=5.0), fixed)
    for i in range(12):
        walk(model.layout, each(tokens, i), each(codes, i), int(labels[i]), fixed)
    shares = [int(np.sum(np.asarray(codes.grain) == g)) for g in range(len(model.layout.grids))]
    assert min(shares) > 0
    assert len(np.unique(tokens.length)) > 2
    area = np.asarray(codes.grain)
    found = np.sum(4**area, (1, 2)) + 2 * len(model.layout.grids)
    np.testing.assert_array_equal(tokens.length, found)


@pytest.mark.parametrize("order", ["row-first", "region-first"])
def test_fixed_positions_follow_the_order_of_the_layout(order):
    model = make((2, 4), order)
    tokens, codes = generate_tokens(model, jnp.arange(3), KEY, DQSamplingOptions(position_temperature=3.0))
    for i in range(3):
        walk(model.layout, each(tokens, i), each(codes, i), i, True)


@pytest.mark.parametrize("fixed", [True, False])
def test_greedy_tokens_are_the_likeliest_of_the_uncached_forward(model, fixed):
    labels = jnp.arange(3)
    tokens, codes = generate_tokens(model, labels, KEY, GREEDY, fixed)
    n = tokens.content.shape[1]
    index = jnp.broadcast_to(jnp.arange(n), (3, n))
    image = jnp.where(index < tokens.length[:, None], 0, -1)

    @jax.jit
    def forward(network):
        outputs = network(tokens.content, tokens.position, tokens.grain, index, image)
        return network.position_head(outputs[0]), network.content_head(outputs[1])

    positions, contents = (np.asarray(x) for x in forward(model.network))
    checked = 0
    for i in range(3):
        row = each(tokens, i)
        choices = walk(model.layout, row, each(codes, i), i, fixed)
        for t in range(1, int(row.length)):
            if choices[t] is not None:
                checked += len(choices[t]) > 1
                assert row.position[t] == choices[t][np.argmax(positions[i, t - 1, choices[t]])]
            if row.content[t] < model.layout.codebook_size:
                assert row.content[t] == np.argmax(contents[i, t - 1, : model.layout.codebook_size])
    assert checked > 3
    assert len(np.unique(codes.codes)) > 2


def test_a_row_does_not_depend_on_the_others(dual):
    many = generate(dual, jnp.array([1, 2, 0, 2]), KEY, DQSamplingOptions())
    few = generate(dual, jnp.array([1, 2]), KEY, DQSamplingOptions())
    np.testing.assert_array_equal(many.codes[:2], few.codes)
    np.testing.assert_array_equal(many.grain[:2], few.grain)
    same = generate(dual, jnp.array([1, 1, 1, 1]), KEY, DQSamplingOptions())
    assert len(np.unique(same.codes, axis=0)) > 1


def test_new_options_compile_nothing(dual):
    labels = jnp.array([1, 2])
    generate(dual, labels, KEY, DQSamplingOptions())
    before = dqsampler._generate._cache_size()
    for options in (GREEDY, DQSamplingOptions(top_k=3, position_top_p=0.5), SamplingOptions(top_k=2, top_p=0.9)):
        generate(dual, labels, jax.random.key(1), options)
        generate(dual, labels, KEY, options, fixed_positions=False)
    generate_tokens(dual, labels, KEY, GREEDY, limit=5)
    assert dqsampler._generate._cache_size() == before


def test_options_act_on_their_stream(dual):
    labels = jnp.arange(3)
    greedy = generate(dual, labels, KEY, GREEDY)
    contents = generate(dual, labels, KEY, DQSamplingOptions(temperature=5.0, position_top_k=1))
    first = generate_tokens(dual, labels, KEY, dataclasses.replace(GREEDY, temperature=5.0))[0]
    np.testing.assert_array_equal(first.position[:, 1], generate_tokens(dual, labels, KEY, GREEDY)[0].position[:, 1])
    assert not np.array_equal(contents.codes, greedy.codes)
    both = generate(dual, labels, KEY, SamplingOptions(temperature=0.0))
    np.testing.assert_array_equal(both.codes, greedy.codes)
    np.testing.assert_array_equal(both.grain, greedy.grain)


def test_draws_follow_the_logits(dual):
    """The first position's frequencies over many rows equal the softmax of the logits that the rules leave."""
    labels = jnp.full(2000, 2)
    tokens, _ = generate_tokens(dual, labels, KEY, DQSamplingOptions(), limit=2)
    start = [jnp.stack([x[:1, 0], x[:1, 0]], -1) for x in (tokens.content, tokens.position, tokens.grain)]
    outputs, _ = dual.network(*start, jnp.array([[0, 1]]), jnp.zeros((1, 2), jnp.int32))
    logits = dual.network.position_head(outputs)[0, 0]
    allowed = np.array([0, 1, 2, 3, dual.layout.position_eos[0]])
    expected = jax.nn.softmax(logits[allowed])
    found = np.bincount(tokens.position[:, 1], minlength=len(logits))
    np.testing.assert_allclose(found[allowed] / 2000, expected, atol=0.04)
    assert np.sum(found) == np.sum(found[allowed])


def test_an_unconditional_model_ignores_labels():
    model = make((2, 4), classes=0)
    one, two = (generate(model, labels, KEY, DQSamplingOptions()) for labels in (np.array([0, 7]), np.array([3, 1])))
    np.testing.assert_array_equal(one.codes, two.codes)
    assert np.max(one.codes) < model.layout.codebook_size


def test_eight_devices_draw_what_one_does(dual):
    """Rows over "data", heads over "model"."""
    labels = jnp.arange(8) % 3
    expected = generate(dual, labels, KEY, DQSamplingOptions())
    mesh = make_mesh("4x2")
    with jax.set_mesh(mesh):
        split = jax.device_put(labels, NamedSharding(mesh, PartitionSpec("data")))
        model, key = jax.device_put((dual, KEY), NamedSharding(mesh, PartitionSpec()))
        found = generate(model, split, key, DQSamplingOptions())
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.grain, expected.grain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k is 0: expected at least 1"),
        ({"position_top_k": 0}, "position_top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"position_temperature": float("nan")}, "position_temperature is nan"),
    ],
)
def test_options_that_cannot_be_used_are_refused(dual, options, message):
    with pytest.raises(InputError, match=message):
        generate(dual, jnp.array([1]), KEY, DQSamplingOptions(**options))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1, 3]), "label 3 is out of range: this model has 3, from 0 to 2"),
        (np.array([-1]), "label -1 is out of range"),
    ],
)
def test_labels_out_of_range_are_refused(dual, labels, message):
    with pytest.raises(InputError, match=message):
        generate(dual, labels, KEY, DQSamplingOptions())


def test_the_method_runs_inside_a_program(dual):
    """As the previews of a training step do; labels cannot be looked at there."""
    labels, options = jnp.array([1, 2]), SamplingOptions(top_k=4)
    found = jax.jit(lambda model, labels: model.generate(None, labels, KEY, options))(dual, labels)
    expected = dual.generate(None, labels, KEY, options)
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.grain, expected.grain)
