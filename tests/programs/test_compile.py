import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from benchmarks import codebook_search
from rqjax import mesh
from rqjax.cost import flops, hlo
from rqjax.cost.chips import CHIPS
from rqjax.errors import InputError
from rqjax.programs import compile
from rqjax.quantize.distance import distances, nearest
from rqjax.run.config import load_file
from tests.configs.tiny import get_config


def count(function, *arguments) -> flops.Flops:
    return flops.count(jax.make_jaxpr(function)(*arguments))


def compiler_count(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def test_flops_are_the_compilers_where_nothing_loops():
    """Of a small model whose layers are not scanned, so that the compiler's count is whole."""
    x, kernel = jnp.ones((4, 16, 16, 32)), jnp.ones((3, 3, 32, 64))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert count(convolve, x, kernel).total == 2 * 4 * 7 * 7 * 64 * 32 * 9
    assert compiler_count(convolve, x, kernel) == pytest.approx(2 * 4 * 7 * 7 * 64 * 32 * 9, rel=1e-3)

    config = get_config("rqtransformer").stage.model
    config.dim = 256  # wide enough for the products to outweigh what is not counted
    model = jax.eval_shape(config.init, jax.random.key(0))
    blocks = jax.tree.map(lambda x: jnp.zeros(x.shape[1:]), model.network.body.blocks)
    mask, x = jnp.ones((1, 16, 16), bool), jnp.ones((2, 16, config.dim))

    def layers(blocks, x):
        for _ in range(3):
            x = blocks(x, mask)
        return jnp.sum(x)

    # the compiler also counts softmax, norms and GELU, and leaves out what nothing reads
    ours, theirs = count(jax.grad(layers), blocks, x).total, compiler_count(jax.grad(layers), blocks, x)
    assert ours == pytest.approx(theirs, rel=0.02)


def test_flops_of_loops_branches_and_precision():
    a = jnp.ones((8, 8))
    one = 2 * 8**3

    def loop(x):
        return jax.lax.scan(lambda x, _: (x @ a, None), x, None, length=5)[0]

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ a @ a, lambda: x)

    assert count(loop, a).total == 5 * one
    assert count(jax.jit(branch), a).total == 2 * one
    exact = count(lambda x: jnp.matmul(x, a, precision="highest"), a)
    assert (exact.total, exact.passes, exact.bfloat16) == (one, 6 * one, 0)
    half = a.astype(jnp.bfloat16)
    for precision, rounded in (("default", 2), ("highest", 1)):
        dot = functools.partial(jax.lax.dot, precision=precision, preferred_element_type=jnp.float32)
        mixed = count(lambda x, y, dot=dot: (dot(x, x), dot(x, y), dot(y, y)), half, a)
        assert (mixed.total, mixed.bfloat16) == (3 * one, rounded * one)


def test_a_loop_that_may_end_early_counts_to_its_end():
    """Of a counter that runs from 0 to a constant; one without a known end counts once."""
    a, one = jnp.ones((8, 8)), 2 * 8**3

    def early(x, limit):
        goes_on = lambda carry: (carry[0] < 7) & (carry[0] < limit) & ~jnp.all(carry[1] > 9)  # noqa: E731
        return jax.lax.while_loop(goes_on, lambda carry: (carry[0] + 1, carry[1] @ a), (0, x))[1]

    def unknown(x, limit):
        return jax.lax.while_loop(lambda carry: carry[0] < limit, lambda c: (c[0] + 1, c[1] @ a), (0, x))[1]

    assert count(early, a, 3).total == 7 * one
    assert count(unknown, a, 3).total == one


def test_collectives_are_multiplied_by_the_loops_around_them():
    devices = mesh.make_mesh("8x1")
    weights = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=jax.NamedSharding(devices, P(None, "data")))
    x = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=jax.NamedSharding(devices, P("data")))

    def loop(weights, x):
        return jax.lax.scan(lambda x, w: (mesh.constrain(jnp.tanh(x @ w), "data"), None), x, weights)[0]

    with jax.set_mesh(devices):
        text = jax.jit(loop).lower(weights, x).compile().as_text()
    assert hlo.collectives(hlo.parse(text)) == {"all-gather": {"count": 5, "bytes": 5 * 64 * 64 * 4}}


TEXT = """HloModule m

%fused (param_0: f32[10,100], param_1: s32[]) -> f32[1,100] {
  %param_0 = f32[10,100]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  ROOT %ds = f32[1,100]{1,0} dynamic-slice(%param_0, %param_1), dynamic_slice_sizes={1,100}
}

%body (p: (s32[], f32[10,100])) -> (s32[], f32[10,100]) {
  %p = (s32[], f32[10,100]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %w = f32[10,100]{1,0} get-tuple-element(%p), index=1
  %f = f32[1,100]{1,0} fusion(%w, %i), kind=kLoop, calls=%fused
  %g = (f32[1,100]{1,0}, f32[8,100]{1,0}) all-gather-start(%f), dimensions={0}
  %h = f32[8,100]{1,0} all-gather-done(%g)
  %c = (f32[8,100]{1,0:T(8,128)S(1)}, f32[8,100]{1,0}, u32[]{:S(2)}) copy-start(%h)
  %d = f32[8,100]{1,0:T(8,128)S(1)} copy-done(%c)
  %e = f32[8,100]{1,0:T(8,128)S(1)} negate(%d)
  ROOT %t = (s32[], f32[10,100]{1,0}) tuple(%i, %w)
}

%condition (p: (s32[], f32[10,100])) -> pred[] {
  %p = (s32[], f32[10,100]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(10)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[10,100]) -> (s32[], f32[10,100]) {
  %a = f32[10,100]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %t = (s32[], f32[10,100]{1,0}) tuple(%zero, %a)
  ROOT %while = (s32[], f32[10,100]{1,0}) while(%t), condition=%condition, body=%body
}
"""


def test_a_text_read_line_by_line():
    """Asynchronous pairs count once, a slice for the array that it is taken from, and what stays on the chip not."""
    assert hlo.collectives(hlo.parse(TEXT)) == {"all-gather": {"count": 10, "bytes": 10 * 8 * 100 * 4}}
    fusion, gather, copy, compare = 400 + 4 + 400, 400 + 400 + 3200, 3200, 1 + 4 + 4
    assert hlo.traffic(hlo.parse(TEXT)) == 10 * (fusion + gather + copy + compare)


def test_a_loop_that_may_end_early_counts_to_the_nearest_end():
    """Its condition also compares a sum with a larger constant, and asks for something else."""
    more = """  %far = s32[] constant(1000)
  %later = pred[] compare(%i, %far), direction=LT
  %never = pred[] compare(%i, %n), direction=EQ
"""
    early = TEXT.replace("  ROOT %lt = pred[]", f"{more}  ROOT %lt = pred[]")
    assert early != TEXT
    assert hlo.collectives(hlo.parse(early)) == hlo.collectives(hlo.parse(TEXT))


NESTED = """HloModule m

%inner (param_0: f32[10,100], param_1: s32[]) -> f32[1,100] {
  %param_0 = f32[10,100]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  ROOT %ds = f32[1,100]{1,0} dynamic-slice(%param_0, %param_1), dynamic_slice_sizes={1,100}
}

%product (param_0: f32[10,100], param_1: s32[], param_2: f32[7,100]) -> f32[7,1] {
  %param_0 = f32[10,100]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %param_2 = f32[7,100]{1,0} parameter(2)
  %f = f32[1,100]{1,0} fusion(%param_0, %param_1), kind=kLoop, calls=%inner
  ROOT %c = f32[7,1]{1,0} convolution(%param_2, %f), dim_labels=bf_oi->bf
}

%update (param_0: f32[10,100], param_1: f32[10,100], param_2: f32[1,100], param_3: s32[]) -> (f32[10,100]) {
  %param_0 = f32[10,100]{1,0} parameter(0)
  %param_1 = f32[10,100]{1,0} parameter(1)
  %param_2 = f32[1,100]{1,0} parameter(2)
  %param_3 = s32[] parameter(3)
  %first = f32[10,100]{1,0} dynamic-update-slice(%param_0, %param_2, %param_3)
  %second = f32[10,100]{1,0} dynamic-update-slice(%param_1, %param_2, %param_3)
  ROOT %t = (f32[10,100]{1,0}, f32[10,100]{1,0}) tuple(%first, %second)
}

ENTRY %main (w: f32[10,100], i: s32[], x: f32[7,100], k: f32[10,100], v: f32[10,100], n: f32[1,100]) -> f32[7,1] {
  %w = f32[10,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %x = f32[7,100]{1,0} parameter(2)
  %k = f32[10,100]{1,0} parameter(3)
  %v = f32[10,100]{1,0} parameter(4)
  %n = f32[1,100]{1,0} parameter(5)
  %u = (f32[10,100]{1,0}, f32[10,100]{1,0}) fusion(%k, %v, %n, %i), kind=kLoop, calls=%update
  %s = ((f32[10,100]{1,0}), f32[5,100]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:5], [0:100]}
  %d = f32[5,100]{1,0:T(8,128)S(1)} slice-done(%s)
  ROOT %y = f32[7,1]{1,0} fusion(%w, %i, %x), kind=kOutput, calls=%product
}
"""


def test_layers_of_a_loop_and_caches_are_read_and_written_in_slices():
    """A fusion inside a product reads one layer's weights; two caches are written in place, where one token stands."""
    product, caches, part = 400 + 4 + 2800 + 28, 400 + 4 + 2 * 400, 2000
    assert hlo.traffic(hlo.parse(NESTED)) == product + caches + part

    before = """%layout (param_0: f32[10,100]) -> f32[10,100] {
  %param_0 = f32[10,100]{1,0} parameter(0)
  ROOT %copied = f32[10,100]{1,0:T(8,128)} copy(%param_0)
}

%inner ("""
    sliced = "ROOT %ds = f32[1,100]{1,0} dynamic-slice(%param_0"
    other = f"%other = f32[10,100]{{1,0}} fusion(%param_0), kind=kLoop, calls=%layout\n  {sliced}"
    copied = NESTED.replace("%inner (", before, 1).replace(sliced, other.replace("slice(%param_0", "slice(%other"))
    assert "(%other, %param_1)" in copied
    assert hlo.traffic(hlo.parse(copied)) == product + caches + part  # inside a product nothing makes the copy whole


@pytest.mark.parametrize("variant", ["rqtransformer", pytest.param("dqvae", marks=pytest.mark.slow)])
def test_a_step_for_a_slice_that_is_not_there(variant):
    config = get_config(variant)
    plan = compile.measure(config, "v5e:2x2", quick=True)
    assert jax.config.jax_exec_time_optimization_effort == 0  # as it was; pyrefly: ignore[missing-attribute]
    assert plan["fits"]
    assert (plan["devices"], plan["mesh"]) == (4, {"data": 4, "model": 1})
    assert plan["state_bytes"] < plan["argument_bytes"] < plan["peak_bytes"] < 2**28
    assert plan["collectives"]["all-reduce"]["count"] > 0
    assert plan["flops"] > 1e6
    assert json.loads(json.dumps(plan)) == plan
    assert any("GiB a device" in line for line in compile.describe(plan))


@pytest.mark.parametrize("topology", ["v5e:1x1", pytest.param("v6e:1x1", marks=pytest.mark.slow)])
def test_a_step_on_one_chip(topology):
    plan = compile.measure(get_config("rqtransformer"), topology, quick=True)
    assert plan["fits"]
    assert (plan["devices"], plan["collectives"]) == (1, {})


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:1x1", "v5e:2x2"])
@pytest.mark.parametrize("variant", ["rqtransformer", "dqtransformer"])
def test_a_sampler_for_a_slice_that_is_not_there(variant, topology):
    plan = compile.measure(get_config(variant), topology, sample=8, quick=True)
    assert plan["program"] == "sampler of 8 images in bfloat16"
    assert plan["fits"]
    # both models are whole on each device, and its images are its own; DQ asks at each token whether all are done
    asked = plan["collectives"].pop("all-reduce", {"count": 0, "bytes": 0})
    assert asked["bytes"] == 4 * asked["count"] * (variant == "dqtransformer")
    assert plan["collectives"] == {}


def test_a_sampler_in_int8_computes_in_bfloat16_on_a_tpu():
    config = get_config("rqtransformer")
    _, devices = compile.slice_of("v5e:1x1", 1)
    program = compile._sampler(config, config.stage.build(config.steps), 8, devices, "int8")
    prior, tokenizer = program.arguments[:2]
    assert (prior.config.dtype, tokenizer.config.dtype) == ("bfloat16", "bfloat16")
    assert {x.dtype for x in jax.tree.leaves(prior)} == {jnp.dtype(kind) for kind in ("int8", "bfloat16", "float32")}
    with jax.set_mesh(program.mesh):
        work = flops.count(program.function.trace(*program.arguments).jaxpr)
    assert work.bfloat16 > 0.9 * work.total


def test_what_is_no_sampler_is_refused():
    with pytest.raises(InputError, match="--sample: a RQVAEConfig describes no prior"):
        compile.measure(get_config("rqvae"), "v5e:2x2", sample=8)
    with pytest.raises(InputError, match="--sample=6 is no multiple of 4 devices"):
        compile.measure(get_config("rqtransformer"), "v5e:2x2", sample=6)


def test_what_does_not_fit_is_an_answer():
    config = get_config("rqvae")
    config.data.batch = 2**22
    plan = compile.measure(config, "v5e:2x2")
    assert not plan["fits"]
    assert "G a device of 15.75G" in plan["needs"]
    assert plan["suggestion"] == "recompute activations: --config.stage.model.remat=true"


@pytest.mark.parametrize(
    ("asked", "budget", "fewest"),
    [(8, 90, 1), (8, 50, 2), (8, 49, 4), (8, 19, None), (6, 39, 3), (1, 90, None)],
)
def test_fewer_microbatches_are_named_where_they_fit(asked, budget, fewest):
    """10 bytes of arguments stay, 10 others grow with the microbatch."""
    config = get_config("rqtransformer")
    config.stage.accumulate = asked
    said = compile._fewer_microbatches(config, {"argument_bytes": 10, "peak_bytes": 20, "memory_budget_bytes": budget})
    assert said.rpartition("--config.stage.accumulate=")[2] == ("" if fewest is None else str(fewest))


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "v5e:1x1", "v6e:1x1", "v5p:1x1x1"])
def test_a_chip_is_one_device(topology):
    chip, devices = compile.slice_of(topology, 1)
    assert len(devices) == (1 if "1x1" in topology else 4)
    assert chip == CHIPS[topology.partition(":")[0]]
    mesh.make_mesh(f"{len(devices)}x1", devices)


@pytest.mark.parametrize("topology", ["v5e", "v9:2x2", "v5e:2", "v5e:3x5"])
def test_unknown_slices_are_refused(topology):
    with pytest.raises(InputError, match="topology"):
        compile.measure(get_config("rqvae"), topology)


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("imagenet_rqvae", {}),
        ("ffhq_dqtransformer", {}),
        ("imagenet_rqtransformer", {"label": (2048,)}),
        ("cc3m_rqtransformer", {"text": (2048, 32)}),
    ],
)
def test_the_batch_has_the_fields_that_the_stage_reads(file, fields):
    config = load_file(file)
    shapes = {name: x.shape for name, x in compile._batch(config).items()}
    assert shapes == {"image": (config.data.batch, 256, 256, 3)} | fields


@pytest.mark.slow
def test_two_slices_are_replicas():
    plan = compile.measure(get_config("rqvae"), "v5e:2x2", slices=2)
    assert plan["mesh"] == {"replica": 2, "data": 2 * 2, "model": 1}
    assert np.prod(list(plan["mesh"].values())) == plan["devices"] == 8


def test_the_search_for_the_nearest_code_holds_no_distances():
    """The compiler fuses the smallest of them into their product; so we have no kernel of our own for it."""
    (device,) = compile.slice_of("v5e:1x1")[1]
    embed, x = (jax.ShapeDtypeStruct((rows, 64), jnp.float32) for rows in (4096, 2048))
    held, moved = codebook_search.figures(nearest, device, embed, x)
    every = 4096 * 2048 * 4 / codebook_search.MIB
    assert held < every / 32
    assert moved < every
    in_order = lambda embed, x: jnp.sort(distances(embed, x), axis=1)[:, 0]  # noqa: E731  (which needs all of them)
    assert codebook_search.figures(in_order, device, embed, x)[0] >= every
