"""What a run would cost on a TPU slice that is not there: `rqjax compile --config C --topology v5p:2x4x4`.

Compiles the training step, or with --sample the sampler, from shapes alone, by the compiler of that TPU (libtpu, of the
extras `dev` and `tpu`). It tells what the compiler knows: that a program fits, and its memory and collectives. The time
is a bound: no step is faster, and how close one comes to it is not known here.
"""

import contextlib
import json
import pathlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import config_flags

from rqjax import mesh
from rqjax.cost import flops, hlo
from rqjax.cost.chips import CHIPS, GIB, NETWORK, Chip
from rqjax.errors import InputError, RunError
from rqjax.rq.sample import SamplingOptions
from rqjax.run import hosts, training_step
from rqjax.run.config import Config
from rqjax.run.training_step import Placement

LEAST_EFFORT = {"jax_exec_time_optimization_effort": -1.0}
FLAGS = flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/.", flag_values=FLAGS)
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Generation and shape of a slice, as in v5e:4x4 or v5p:2x4x4.", flag_values=FLAGS
)
SLICES = flags.DEFINE_integer("slices", 1, "How many such slices.", lower_bound=1, flag_values=FLAGS)
MESH = flags.DEFINE_string("mesh", "", "Instead of the configuration's mesh.", flag_values=FLAGS)
SAMPLE = flags.DEFINE_integer(
    "sample", 0, "Compile the sampler for so many images instead of the training step.", flag_values=FLAGS
)
QUICK = flags.DEFINE_bool(
    "quick",
    False,
    "Let the compiler search less, in a fraction of the time: a look at memory and collectives, not the program that"
    " training will run.",
    flag_values=FLAGS,
)
JSON = flags.DEFINE_string("json", "", "A file for the figures.", flag_values=FLAGS)
TEXT = flags.DEFINE_string("text", "", "A file for the compiled program.", flag_values=FLAGS)


def main(_: Sequence[str]) -> None:
    """Prints what the flags ask for; ends with status 1 if the program does not fit."""
    if CONFIG.value is None or TOPOLOGY.value is None:
        raise InputError("compile needs --config FILE[:VARIANT] and --topology, as in v5e:4x4")
    jax.config.update("jax_platforms", "cpu")  # the arrays of this process; chips that are there stay free
    config = CONFIG.value
    config.mesh = MESH.value or config.mesh
    plan = measure(config, TOPOLOGY.value, SLICES.value, SAMPLE.value, TEXT.value, quick=QUICK.value)
    if JSON.value:
        pathlib.Path(JSON.value).write_text(json.dumps(plan, indent=1) + "\n")
    print("\n".join(describe(plan)))
    if not plan["fits"]:
        raise RunError(f"does not fit: {plan['needs']}; {plan['suggestion']}")


def measure(
    config: Config, topology: str, slices: int = 1, sample: int = 0, text: str = "", *, quick: bool = False
) -> dict[str, Any]:
    """The figures of one program on a topology: a dictionary for JSON; bytes and operations are those of one device.

    `text` names a file for the compiled program. With `quick` the compiler makes its least effort.
    Raises InputError for a topology that the compiler does not know, or a mesh that does not fit it.
    """
    chip, devices = _slice(topology, slices)
    if getattr(config.stage, "perceptual_weight", 0) and not config.stage.vgg16_path:
        config.stage.vgg16_path = "read for its shapes alone, which are known"
    stage = config.stage.build(config.steps)
    placement = training_step.place(config, stage, devices)
    function, arguments = _sampler(config, stage, sample, placement) if sample else _step(config, stage, placement)
    started = time.perf_counter()
    with jax.set_mesh(placement.mesh), _options(jax_enable_compilation_cache=False, **(LEAST_EFFORT if quick else {})):
        traced = function.trace(*arguments)
        lowered = traced.lower()
        plan = {
            "topology": f"{slices} x {topology}" if slices > 1 else topology,
            "devices": len(devices),
            "mesh": dict(placement.mesh.shape),
            "program": f"sampler of {sample} images" if sample else "training step",
            "images": sample or config.data.batch,
            "least_effort": quick,
            "memory_budget_bytes": chip.budget,
            "state_bytes": _bytes_per_device(placement),
        }
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            needs = re.findall(r"\d[\d.]*[KMGT]", str(error))
            return plan | {
                "fits": False,
                "needs": f"{needs[0]} a device of {needs[1]}" if len(needs) > 1 else "more memory than there is",
                "suggestion": _suggestion(config, placement),
                "compile_seconds": time.perf_counter() - started,
            }
    plan["compile_seconds"] = time.perf_counter() - started
    program = compiled.as_text()
    if text:
        pathlib.Path(text).write_text(program)
    plan |= _cost(compiled, program, flops.count(traced.jaxpr), len(devices), chip, slices)
    return plan | {"suggestion": "" if sample else _fewer_microbatches(config, plan)}


@contextlib.contextmanager
def _options(**options: Any) -> Iterator[None]:
    """JAX with other options for a while, and with no program at hand: it cannot read those of absent devices."""
    before = {name: getattr(jax.config, name) for name in options}
    try:
        _set(options)
        yield
    finally:
        _set(before)


def _set(options: dict[str, Any]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _slice(topology: str, slices: int) -> tuple[Chip, Sequence[jax.Device]]:
    generation, _, shape = topology.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise InputError(f"--topology is {topology!r}: expected GENERATION:SHAPE, as in v5e:4x4 or v5p:2x4x4, of one of"
                         f" {', '.join(CHIPS)}")  # fmt: skip
    hosts.quieten_libtpu()
    chip = CHIPS[generation]
    more = ({"num_slices": slices} if slices > 1 else {}) | ({"chip_config_name": chip.mode} if chip.mode else {})
    try:
        return chip, topologies.get_topology_desc(topology, "tpu", **more).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(f"no topology {topology} ({reason}): is libtpu installed? `pip install rqjax[dev]`") from error


def _step(config: Config, stage: Any, placement: Placement) -> tuple[Any, tuple[Any, ...]]:
    """The step of training, and shapes with places for all that it reads."""
    rows, size = config.data.batch, config.data.size
    if rows % mesh.shards(placement.mesh):
        raise InputError(f"data.batch={rows} is not a multiple of the mesh's {mesh.shards(placement.mesh)} parts")
    batch = {"image": jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8), "label": _labels(config, rows)}
    return training_step.jitted(config, stage, placement), (
        mesh.with_sharding(placement.state, placement.sharding),
        mesh.with_sharding(jax.eval_shape(training_step.Skips.none), placement.whole),
        mesh.with_sharding(stage.frozen(), placement.whole),
        mesh.with_sharding(batch, placement.rows),
        _key(),
    )


def _sampler(config: Config, stage: Any, images: int, placement: Placement) -> tuple[Any, tuple[Any, ...]]:
    """Codes and pixels for `images` labels, with the weights as training keeps them."""
    model = placement.state.model
    if not hasattr(model, "generate"):
        raise InputError(
            f"--sample: a {type(model).__name__} does not sample, its prior does: give that one's --config"
        )
    options = SamplingOptions(top_k=config.stage.top_k or None, top_p=config.stage.top_p)

    def draw(model: Any, tokenizer: Any, labels: Any, key: Any) -> Any:
        return tokenizer.decode_codes(model.generate(tokenizer, labels, key, options))

    labels = mesh.with_sharding(_labels(config, images), placement.rows)
    weights = mesh.with_sharding(model, placement.sharding.model)
    tokenizer = mesh.with_sharding(stage.frozen()["tokenizer"], placement.whole)
    return jax.jit(draw), (weights, tokenizer, labels, _key())


def _labels(config: Config, rows: int) -> jax.ShapeDtypeStruct:
    """Classes [rows], or texts [rows length] for a prior that reads them."""
    model = config.stage.model
    length = (model.text_length,) if getattr(model, "text_vocab", 0) else ()
    return jax.ShapeDtypeStruct((rows, *length), jnp.int32)


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _bytes_per_device(placement: Placement) -> int:
    pairs = zip(jax.tree.leaves(placement.state), jax.tree.leaves(placement.sharding), strict=True)
    return sum(int(np.prod(place.shard_shape(x.shape))) * x.dtype.itemsize for x, place in pairs)


def _suggestion(config: Config, placement: Placement) -> str:
    """What to change when memory does not suffice: the cheapest that is left first."""
    model, parts = config.stage.model, mesh.shards(placement.mesh)
    accumulate = getattr(config.stage, "accumulate", 0)
    if not getattr(model, "remat", True):
        return "recompute activations: --config.stage.model.remat=true"
    if accumulate and config.data.batch // (2 * accumulate) % parts == 0 and config.data.batch // (2 * accumulate):
        return f"smaller microbatches: --config.stage.accumulate={2 * accumulate}"
    if accumulate and placement.mesh.shape["model"] < min(8, placement.mesh.size):
        return f"more model parallelism: --mesh {parts // 2}x{2 * placement.mesh.shape['model']}"
    return "a larger slice, or a smaller --config.data.batch"


def _fewer_microbatches(config: Config, plan: dict[str, Any]) -> str:
    """The fewest microbatches that should fit, if fewer than asked; "" if not. Each of them gathers all weights once.

    Counts all memory beyond the arguments as growing with the microbatch, though some of it, as gradients, does not.
    """
    asked, held = getattr(config.stage, "accumulate", 1), plan["argument_bytes"]
    for fewer in range(1, asked):
        needs = held + (plan["peak_bytes"] - held) * asked / fewer
        if asked % fewer == 0 and needs <= plan["memory_budget_bytes"]:
            return f"larger microbatches should fit and communicate less: --config.stage.accumulate={fewer}"
    return ""


def _cost(compiled: Any, text: str, work: flops.Flops, devices: int, chip: Chip, slices: int) -> dict[str, Any]:
    program = hlo.parse(text)
    memory, found, moved = compiled.memory_analysis(), hlo.collectives(program), hlo.traffic(program)
    sent = sum(collective.bytes for collective in found)
    seconds = {
        "compute": work.passes / devices / chip.bfloat16,
        "memory": moved / chip.memory,
        "links": sent / chip.links,
    }
    return {
        "fits": True,
        "peak_bytes": memory.peak_memory_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "collectives": {x.kind: {"count": x.count, "bytes": x.bytes} for x in found},
        "flops": work.total / devices,
        "flops_of_the_compiler_loops_once": (compiled.cost_analysis() or {}).get("flops"),
        "memory_traffic_bytes": moved,
        "flops_per_byte": work.total / devices / max(moved, 1),
        "roofline_seconds": seconds | {"step": max(seconds.values())},
        "assumptions": _assumptions(chip, slices),
    }


def _assumptions(chip: Chip, slices: int) -> list[str]:
    said = [
        f"{chip.bfloat16 / 1e12:.0f} TFLOP/s, {chip.memory / 1e9:.0f} GB/s of memory, {chip.links / 1e9:.0f} GB/s of"
        " links a chip, all of them at their peak and one hidden behind the other",
        "float32 products at the highest precision take six passes",
        "every operand and result outside of a fusion that is not kept on the chip passes through memory once",
        "a collective's bytes are those that a device gives or gets, whichever is more",
    ]
    if slices > 1:
        said.append(
            f"what crosses between slices is counted at the links' speed; the network has {NETWORK / 1e9:.2f} GB/s"
        )
    return said


def describe(plan: dict[str, Any]) -> list[str]:
    """The figures as lines for a person."""
    shape = " x ".join(f"{name} {size}" for name, size in plan["mesh"].items())
    lines = [
        f"{plan['program']} on {plan['topology']}: {plan['devices']} devices, mesh {shape}",
        f"state      {plan['state_bytes'] / GIB:8.2f} GiB a device",
    ]
    if not plan["fits"]:
        return lines
    lines.append(f"peak       {plan['peak_bytes'] / GIB:8.2f} GiB a device, of {plan['memory_budget_bytes'] / GIB:.2f}")
    for kind, x in plan["collectives"].items():
        lines.append(f"{kind:<18} {x['count']:>7} a step, {x['bytes'] / 1e9:8.2f} GB a device")
    seconds = plan["roofline_seconds"]
    lines += [
        f"work       {plan['flops'] / 1e12:8.2f} TFLOP a device, {plan['flops_per_byte']:.0f} for each byte of memory",
        f"at least   {seconds['step']:8.3f} s: compute {seconds['compute']:.3f}, memory {seconds['memory']:.3f},"
        f" links {seconds['links']:.3f}; {plan['images'] / seconds['step']:.0f} images/s",
        *(f"  assumed: {line}" for line in plan["assumptions"]),
        f"compiled in {plan['compile_seconds']:.0f} s",
    ]
    return lines + ([plan["suggestion"]] if plan["suggestion"] else [])
