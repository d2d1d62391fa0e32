"""The cost of a run on a TPU slice that is not there: `rqjax compile --config C --topology v5p:2x4x4`.

Compiles the training step, or with --sample the sampler, from shapes alone, by the compiler of that TPU (libtpu, of the
extra `compile`). It tells what the compiler knows: that a program fits, and its memory and collectives. The time
is a bound: no step is faster, and how close one comes to it is not known here.
"""

import contextlib
import importlib.util
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import Array, Float, Int, Key, PyTree

from rqjax import mesh
from rqjax.cost import flops
from rqjax.cost.chips import CHIPS, Chip
from rqjax.cost.plan import Plan, describe, figures
from rqjax.errors import InputError, RunError
from rqjax.flags import configuration
from rqjax.flags.compile import FLAGS, JSON, MESH, OVERWRITE, QUICK, SAMPLE, SLICES, TEXT, TOPOLOGY
from rqjax.interface import Condition, Prior, Stage, Tokenizer
from rqjax.run import config_file, hosts, training_step
from rqjax.run.config import Config
from rqjax.run.skips import Skips
from rqjax.run.training_step import Placement
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.classify import ClassifyConfig
from rqjax.stages.predict import PredictConfig
from rqjax.store import outputs

Program = tuple[jax.stages.Wrapped, tuple[PyTree, ...]]
"""A jitted function, and the shapes of its arguments with their places."""
LEAST_EFFORT = {"jax_exec_time_optimization_effort": -1.0}


def main(_: Sequence[str]) -> None:
    """Prints the figures of one program; ends with status 1 if it does not fit."""
    asked = configuration.asked(FLAGS)
    if asked is None or TOPOLOGY.value is None:
        raise InputError("compile needs --config NAME[:VARIANT] and --topology, as in v5e:4x4")
    jax.config.update("jax_platforms", "cpu")  # the arrays of this process; chips that are there stay free
    config = config_file.load(asked)
    config.mesh = MESH.value or config.mesh
    figures_to, program_to = (
        outputs.checked(flag.value, endings, overwrite=OVERWRITE.value, flag=f"--{flag.name}") if flag.value else None
        for flag, endings in ((JSON, (".json",)), (TEXT, (".txt", ".hlo")))
    )
    plan = measure(config, TOPOLOGY.value, SLICES.value, SAMPLE.value, program_to, quick=QUICK.value)
    if figures_to:
        outputs.write_text(figures_to, json.dumps(plan, indent=1) + "\n")
    print("\n".join(describe(plan)))
    if not plan["fits"]:
        raise RunError(f"does not fit: {plan['needs']}; {plan['suggestion']}")


def measure(
    config: Config,
    topology: str,
    slices: int = 1,
    sample: int = 0,
    text: pathlib.Path | None = None,
    *,
    quick: bool = False,
) -> Plan:
    """The figures of one program on a topology. `text` names a file for the compiled program.

    With `quick` the compiler makes its least effort. Raises InputError for a topology that the compiler does not know,
    or a mesh that does not fit it.
    """
    chip, devices = _slice(topology, slices)
    if isinstance(config.stage, AutoencodeConfig) and not config.stage.vgg16_path:
        config.stage.vgg16_path = "read for its shapes alone, which are known"
    stage = config.stage.build(config.steps)
    placement = training_step.place(config, stage, devices)
    plan: Plan = {
        "topology": f"{slices} x {topology}" if slices > 1 else topology,
        "devices": len(devices),
        "mesh": dict(placement.mesh.shape),
        "program": f"sampler of {sample} images" if sample else "training step",
        "images": sample or config.data.batch,
        "least_effort": quick,
        "memory_budget_bytes": chip.budget,
        "state_bytes": _bytes_per_device(placement),
    }
    function, arguments = _sampler(config, stage, sample, placement) if sample else _step(config, stage, placement)
    started = time.perf_counter()
    with jax.set_mesh(placement.mesh), _options(jax_enable_compilation_cache=False, **(LEAST_EFFORT if quick else {})):
        traced = function.trace(*arguments)
        compiled = _compiled(traced.lower())
    plan["compile_seconds"] = time.perf_counter() - started
    if isinstance(compiled, str):
        return plan | {"fits": False, "needs": compiled, "suggestion": _suggestion(config, placement)}
    program = compiled.as_text() or ""
    if text:
        outputs.write_text(text, program)
    plan |= figures(compiled, program, flops.count(traced.jaxpr), len(devices), chip, slices)
    return plan | {"suggestion": "" if sample else _fewer_microbatches(config, plan)}


def _compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled | str:
    """The program; the memory that it needs if there is not enough."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needs = re.findall(r"\d[\d.]*[KMGT]", str(error))
        return f"{needs[0]} a device of {needs[1]}" if len(needs) > 1 else "more memory than there is"


@contextlib.contextmanager
def _options(**options: bool | float) -> Iterator[None]:
    """JAX with other options for a while, and with no program at hand: it cannot read those of absent devices."""
    before = {name: getattr(jax.config, name) for name in options}
    try:
        _set(options)
        yield
    finally:
        _set(before)


def _set(options: Mapping[str, bool | float]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _slice(topology: str, slices: int) -> tuple[Chip, Sequence[jax.Device]]:
    generation, _, shape = topology.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise InputError(f"--topology is {topology!r}: expected GENERATION:SHAPE, as in v5e:4x4 or v5p:2x4x4, of one of"
                         f" {', '.join(CHIPS)}")  # fmt: skip
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise InputError("compile needs libtpu, the compiler of TPUs: `pip install 'rqjax[compile]'` brings it")
    hosts.quieten_libtpu()
    chip = CHIPS[generation]
    options = ({"num_slices": slices} if slices > 1 else {}) | ({"chip_config_name": chip.mode} if chip.mode else {})
    try:
        return chip, topologies.get_topology_desc(topology, "tpu", **options).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(f"no topology {topology} ({reason}): give one that there is, as in v5e:4x4") from error


def _step(config: Config, stage: Stage, placement: Placement) -> Program:
    rows, parts = config.data.batch, mesh.shards(placement.mesh)
    if rows % parts:
        raise InputError(f"data.batch={rows} is not a multiple of the mesh's {parts} parts")
    return training_step.jitted(config, stage, placement), (
        placement.abstract,
        mesh.with_sharding(jax.eval_shape(Skips.none), placement.whole),
        mesh.with_sharding(stage.frozen_shapes(), placement.whole),
        mesh.with_sharding(_batch(config), placement.rows),
        jax.eval_shape(jax.random.key, 0),
    )


def _batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields that a step reads: images, and a class or a text for each."""
    rows, size, stage = config.data.batch, config.data.size, config.stage
    condition = stage.model.condition if isinstance(stage, PredictConfig) else None
    labels = {field: _labels(condition, rows) for field in sorted(stage.fields - {"image"})}
    return {"image": jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8), **labels}


def _sampler(config: Config, stage: Stage, images: int, placement: Placement) -> Program:
    """Codes and pixels for `images` labels, with the weights as training keeps them."""
    model, settings = placement.abstract.model, config.stage
    if not isinstance(settings, PredictConfig):
        raise InputError(
            f"--sample: a {type(model).__name__} does not sample, its prior does: give that one's --config"
        )

    def draw(
        model: Prior, tokenizer: Tokenizer, labels: Int[Array, "b ..."], key: Key[Array, ""]
    ) -> Float[Array, "b height width 3"]:
        return tokenizer.decode_codes(model.generate(tokenizer, labels, key, settings.draw))

    labels = mesh.with_sharding(_labels(settings.model.condition, images), placement.rows)
    tokenizer = mesh.with_sharding(stage.frozen_shapes()["tokenizer"], placement.whole)
    return jax.jit(draw), (model, tokenizer, labels, jax.eval_shape(jax.random.key, 0))


def _labels(condition: Condition | None, rows: int) -> jax.ShapeDtypeStruct:
    """The values of a prior's condition, texts [rows length] or classes [rows], or the classes of a classifier."""
    shape = (rows, condition.length) if condition and condition.field == "text" else (rows,)
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _bytes_per_device(placement: Placement) -> int:
    pairs = zip(jax.tree.leaves(placement.state), jax.tree.leaves(placement.sharding), strict=True)
    return sum(math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize for x, place in pairs)


def _suggestion(config: Config, placement: Placement) -> str:
    """The change that makes a program need less memory: the cheapest that is left first."""
    stage, parts = config.stage, mesh.shards(placement.mesh)
    if not isinstance(stage, ClassifyConfig) and not stage.model.remat:
        return "recompute activations: --config.stage.model.remat=true"
    if isinstance(stage, PredictConfig):
        smaller = config.data.batch // (2 * stage.accumulate)
        if smaller and smaller % parts == 0:
            return f"smaller microbatches: --config.stage.accumulate={2 * stage.accumulate}"
        if placement.mesh.shape["model"] < min(8, placement.mesh.size):
            return f"more model parallelism: --mesh {parts // 2}x{2 * placement.mesh.shape['model']}"
    return "a larger slice, or a smaller --config.data.batch"


def _fewer_microbatches(config: Config, plan: Plan) -> str:
    """The fewest microbatches that should fit, if fewer than asked; "" if not. Each of them gathers all weights once.

    Counts all memory beyond the arguments as growing with the microbatch, though some of it, as gradients, does not.
    """
    asked, held = config.stage.microbatches, plan["argument_bytes"]
    for fewer in range(1, asked):
        needs = held + (plan["peak_bytes"] - held) * asked / fewer
        if asked % fewer == 0 and needs <= plan["memory_budget_bytes"]:
            return f"larger microbatches should fit and communicate less: --config.stage.accumulate={fewer}"
    return ""
