"""The figures of one compiled program: computed from its text, kept as JSON, printed for a person."""

from collections.abc import Sequence
from typing import TypedDict

import jax

from rqjax.cost import hlo
from rqjax.cost.chips import GIB, NETWORK, Chip
from rqjax.cost.flops import Flops


class Plan(TypedDict, total=False):
    """Figures of a program on a topology. Bytes and operations are those of one device."""

    program: str  # "training step", or "sampler of 8 images"
    topology: str
    devices: int
    mesh: dict[str, int]
    images: int  # of one run of the program
    least_effort: bool
    compile_seconds: float
    memory_budget_bytes: float
    state_bytes: int
    argument_bytes: int
    fits: bool
    needs: str  # the memory, of a program that does not fit; the figures below are of one that does
    suggestion: str  # a change of the configuration, or ""
    peak_bytes: int
    collectives: dict[str, dict[str, int]]  # count and bytes of each kind
    flops: float
    flops_in_bfloat16: float
    flops_of_the_compiler_loops_once: float | None
    memory_traffic_bytes: int
    flops_per_byte: float
    roofline_seconds: dict[str, float]  # compute, memory, links; `step` is the largest
    assumptions: list[str]


def figures(compiled: jax.stages.Compiled, text: str, work: Flops, devices: int, chip: Chip, slices: int) -> Plan:
    """The figures of a program that fits; `text` is the program's, `work` counts the operations of all devices."""
    program, memory = hlo.parse(text), compiled.memory_analysis()
    assert memory is not None  # a TPU's compiler gives it
    collectives, moved = hlo.collectives(program), hlo.traffic(program)
    sent = sum(x["bytes"] for x in collectives.values())
    seconds = {
        "compute": work.passes / devices / chip.bfloat16,
        "memory": moved / chip.memory,
        "links": sent / chip.links,
    }
    return {
        "fits": True,
        "peak_bytes": memory.peak_memory_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "collectives": collectives,
        "flops": work.total / devices,
        "flops_in_bfloat16": work.bfloat16 / devices,
        "flops_of_the_compiler_loops_once": (compiled.cost_analysis() or {}).get("flops"),
        "memory_traffic_bytes": moved,
        "flops_per_byte": work.total / devices / max(moved, 1),
        "roofline_seconds": seconds | {"step": max(seconds.values())},
        "assumptions": _assumptions(chip, slices),
    }


def _assumptions(chip: Chip, slices: int) -> list[str]:
    assumptions = [
        f"{chip.bfloat16 / 1e12:.0f} TFLOP/s, {chip.memory / 1e9:.0f} GB/s of memory, {chip.links / 1e9:.0f} GB/s of"
        " links a chip, all of them at their peak and one hidden behind the other",
        "float32 products at the highest precision take six passes",
        "every operand and result outside of a fusion that is not kept on the chip passes through memory once",
        "a collective's bytes are those that a device gives or gets, whichever is more",
    ]
    if slices > 1:
        assumptions.append(
            f"bytes between slices are counted at the links' speed; the network has {NETWORK / 1e9:.2f} GB/s"
        )
    return assumptions


def describe(plan: Plan) -> Sequence[str]:
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
        f"work       {plan['flops'] / 1e12:8.2f} TFLOP a device, {plan['flops_per_byte']:.0f} for each byte of memory,"
        f" {100 * plan['flops_in_bfloat16'] / max(plan['flops'], 1):.1f} % of it products of bfloat16",
        f"at least   {seconds['step']:8.3f} s: compute {seconds['compute']:.3f}, memory {seconds['memory']:.3f},"
        f" links {seconds['links']:.3f}; {plan['images'] / seconds['step']:.0f} images/s",
        *(f"  assumed: {line}" for line in plan["assumptions"]),
        f"compiled in {plan['compile_seconds']:.0f} s",
    ]
    return lines + ([plan["suggestion"]] if plan["suggestion"] else [])
