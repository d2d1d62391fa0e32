"""The one jitted step of a run, and the places of everything that it reads."""

import dataclasses
from collections.abc import Sequence

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rqjax import mesh
from rqjax.interface import Stage, State
from rqjax.run.config import Config
from rqjax.run.skips import guarded


@dataclasses.dataclass(frozen=True)
class Placement:
    """The mesh of a run, and the shapes of its state with their places."""

    mesh: Mesh
    state: State  # shapes
    sharding: State  # a NamedSharding for each of them

    @property
    def whole(self) -> NamedSharding:
        """Of arrays that every device has."""
        return NamedSharding(self.mesh, P())

    @property
    def rows(self) -> NamedSharding:
        """Of batches."""
        return NamedSharding(self.mesh, mesh.rows(self.mesh))

    @property
    def abstract(self) -> State:
        """The shapes, each with its place."""
        return mesh.with_sharding(self.state, self.sharding)


def place(config: Config, stage: Stage, devices: Sequence[jax.Device] | None = None) -> Placement:
    """The placement of `config` on `devices` (all by default). Raises InputError for a mesh that does not fit."""
    devices = jax.devices() if devices is None else devices
    state = jax.eval_shape(stage.init, jax.random.key(0))
    together = config.data.batch // config.stage.microbatches
    shape = mesh.auto_shape(devices, together, state) if config.mesh == "auto" else config.mesh
    over = mesh.make_mesh(shape, devices)
    return Placement(over, state, mesh.shard_state(state, over, config.split_codebooks))


def compiler_options(devices: Sequence[jax.Device]) -> dict[str, str]:
    """The compiler's options for a step: on a single CPU its order is the one that holds the least memory at once.

    By default operations that do not wait for each other may run side by side, and then no two of them share memory,
    though each has all cores already. The order changes no number. Several CPUs exchange data, which that order is not
    made for.
    """
    lone = len(devices) == 1 and devices[0].platform == "cpu"
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"} if lone else {}


def jitted(config: Config, stage: Stage, placement: Placement) -> jax.stages.Wrapped:
    """The step of a run, compiled at its first call or by `.lower(...)`; the state given to it is used up."""
    whole = placement.whole
    return jax.jit(
        guarded(stage.propose, config.max_skipped),
        in_shardings=(placement.sharding, whole, whole, placement.rows, None),
        out_shardings=(placement.sharding, whole, whole),
        donate_argnums=0,  # the counts of skips are still read by SkipWatch
        compiler_options=compiler_options(list(placement.mesh.devices.flat)),
    )
