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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh
from jaxtyping import PyTree

from rqjax import mesh
from rqjax.api.program import condition_shape, sampler
from rqjax.cost import flops
from rqjax.cost.chips import CHIPS, Chip
from rqjax.cost.plan import Plan, describe, figures
from rqjax.errors import InputError, RunError
from rqjax.flags import configuration
from rqjax.flags.compile import DTYPE, FLAGS, JSON, MESH, OVERWRITE, QUICK, SAMPLE, SLICES, TEXT, TOPOLOGY
from rqjax.interface import Stage
from rqjax.run import config_file, hosts, training_step
from rqjax.run.config import Config
from rqjax.run.skips import Skips
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.classify import ClassifyConfig
from rqjax.stages.predict import PredictConfig
from rqjax.store import outputs

LEAST_EFFORT = {"jax_exec_time_optimization_effort": -1.0}
SAMPLER_EFFORT = {"jax_exec_time_optimization_effort": -0.2}
"""With less, nothing stays on the chip between two instructions, and top-p reads its logits from memory 32 times."""


class Program(NamedTuple):
    """A jitted function, and the shapes of its arguments with their places."""

    function: jax.stages.Wrapped
    arguments: tuple[PyTree, ...]
    mesh: Mesh
    held: tuple[PyTree, ...]  # those of the arguments that stay from call to call


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
    plan = measure(config, TOPOLOGY.value, SLICES.value, SAMPLE.value, program_to, dtype=DTYPE.value, quick=QUICK.value)
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
    dtype: str = "bfloat16",
    quick: bool = False,
) -> Plan:
    """The figures of one program on a topology. `text` names a file for the compiled program, `dtype` is a sampler's.

    With `quick` the compiler makes little effort. Raises InputError for a topology that the compiler does not know,
    or a mesh that does not fit it.
    """
    chip, devices = slice_of(topology, slices)
    if isinstance(config.stage, AutoencodeConfig) and not config.stage.vgg16_path:
        config.stage.vgg16_path = "read for its shapes alone, which are known"
    stage = config.stage.build(config.steps)
    program = _sampler(config, stage, sample, devices, dtype) if sample else _step(config, stage, devices)
    quickly = SAMPLER_EFFORT if sample else LEAST_EFFORT
    plan: Plan = {
        "topology": f"{slices} x {topology}" if slices > 1 else topology,
        "devices": len(devices),
        "mesh": dict(program.mesh.shape),
        "program": f"sampler of {sample} images in {dtype}" if sample else "training step",
        "images": sample or config.data.batch,
        "least_effort": quick,
        "memory_budget_bytes": chip.budget,
        "state_bytes": _bytes_per_device(program.held),
    }
    started = time.perf_counter()
    with jax.set_mesh(program.mesh), _options(jax_enable_compilation_cache=False, **(quickly if quick else {})):
        traced = program.function.trace(*program.arguments)
        compiled = _compiled(traced.lower())
    plan["compile_seconds"] = time.perf_counter() - started
    if isinstance(compiled, str):
        fewer = f"fewer images: --sample {max(sample // 2, 1)}, or more devices"
        suggestion = fewer if sample else _suggestion(config, program.mesh)
        return plan | {"fits": False, "needs": compiled, "suggestion": suggestion}
    lines = compiled.as_text() or ""
    if text:
        outputs.write_text(text, lines)
    plan |= figures(compiled, lines, flops.count(traced.jaxpr), len(devices), chip, slices)
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


def slice_of(topology: str, slices: int = 1) -> tuple[Chip, Sequence[jax.Device]]:
    """The chip of a topology, as "v5e:2x2", and its devices. Raises InputError for one that there is not."""
    generation, _, shape = topology.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise InputError(f"--topology is {topology!r}: expected GENERATION:SHAPE, as in v5e:4x4 or v5p:2x4x4, of one of"
                         f" {', '.join(CHIPS)}")  # fmt: skip
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise InputError("compile needs libtpu, the compiler of TPUs: `pip install 'rqjax[compile]'` brings it")
    hosts.quieten_libtpu()
    chip = CHIPS[generation]
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    options |= {"chip_config_name": chip.mode} if chip.mode else {}
    if math.prod(map(int, shape.split("x"))) == 1:  # a host of one chip, as Colab's; others have four
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return chip, topologies.get_topology_desc(topology, "tpu", **options).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(f"no topology {topology} ({reason}): give one that there is, as in v5e:4x4") from error


def _step(config: Config, stage: Stage, devices: Sequence[jax.Device]) -> Program:
    placement = training_step.place(config, stage, devices)
    rows, parts = config.data.batch, mesh.shards(placement.mesh)
    if rows % parts:
        raise InputError(
            f"data.batch={rows} is not a multiple of the mesh's {parts} parts: choose another --config.data.batch, as"
            f" {(rows // parts + 1) * parts}, or another --mesh"
        )
    arguments = (
        placement.abstract,
        mesh.with_sharding(jax.eval_shape(Skips.none), placement.whole),
        mesh.with_sharding(stage.frozen_shapes(), placement.whole),
        mesh.with_sharding(_batch(config), placement.rows),
        jax.eval_shape(jax.random.key, 0),
    )
    return Program(training_step.jitted(config, stage, placement), arguments, placement.mesh, arguments[:1])


def _batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields that a step reads: images, and a class or a text for each."""
    rows, size, stage = config.data.batch, config.data.size, config.stage
    condition = stage.model.condition if isinstance(stage, PredictConfig) else None
    labels = {field: condition_shape(condition, rows) for field in sorted(stage.fields - {"image"})}
    return {"image": jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8), **labels}


def _sampler(config: Config, stage: Stage, images: int, devices: Sequence[jax.Device], dtype: str) -> Program:
    """Codes and pixels of `images`, as `rqjax sample` makes them: both models whole on each device."""
    settings = config.stage
    if not isinstance(settings, PredictConfig):
        raise InputError(
            f"--sample: a {type(settings.model).__name__} describes no prior: only those draw images; give one's"
            " --config"
        )
    if images % len(devices):
        raise InputError(f"--sample={images} is no multiple of {len(devices)} devices, each of which draws as many")
    by_row = mesh.make_mesh(f"{len(devices)}x1", devices)
    function, arguments = sampler(settings, stage.frozen_shapes()["tokenizer"], images, by_row, dtype)
    return Program(function, arguments, by_row, arguments[:2])


def _bytes_per_device(tree: PyTree) -> int:
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _suggestion(config: Config, of: Mesh) -> str:
    """The change that makes a step need less memory: the cheapest that is left first."""
    stage, parts = config.stage, mesh.shards(of)
    if not isinstance(stage, ClassifyConfig) and not stage.model.remat:
        return "recompute activations: --config.stage.model.remat=true"
    if isinstance(stage, PredictConfig):
        smaller = config.data.batch // (2 * stage.accumulate)
        if smaller and smaller % parts == 0:
            return f"smaller microbatches: --config.stage.accumulate={2 * stage.accumulate}"
        if of.shape["model"] < min(8, of.size):
            return f"more model parallelism: --mesh {parts // 2}x{2 * of.shape['model']}"
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
