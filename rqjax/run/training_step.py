"""The one jitted step of a run: where its inputs live, and what becomes of a step that is not finite."""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from rqjax import mesh
from rqjax.run.config import Config
from rqjax.stages.interface import Stage


class Skips(NamedTuple):
    """How many steps were skipped since the program started, and how many at the end of these, one after the other."""

    total: Int[Array, ""]
    in_a_row: Int[Array, ""]

    @classmethod
    def none(cls) -> "Skips":
        return cls(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


@dataclasses.dataclass(frozen=True)
class Placement:
    """The mesh of a run, and the shapes and places of what a step reads."""

    mesh: Mesh
    state: Any  # shapes
    sharding: Any  # of the state

    @property
    def whole(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    @property
    def rows(self) -> NamedSharding:
        return NamedSharding(self.mesh, mesh.rows(self.mesh))


def place(config: Config, stage: Stage, devices: Sequence[jax.Device] | None = None) -> Placement:
    """Where the run of `config` lives on `devices` (all by default). Raises InputError for a mesh that does not fit."""
    devices = jax.devices() if devices is None else devices
    state = jax.eval_shape(lambda: stage.init(jax.random.key(0)))
    together = config.data.batch // getattr(config.stage, "accumulate", 1)
    shape = mesh.auto_shape(devices, together, state) if config.mesh == "auto" else config.mesh
    over = mesh.make_mesh(shape, devices)
    return Placement(over, state, mesh.shard_state(state, over, config.split_codebooks))


def guarded(train_step: Callable[..., Any], max_skipped: int) -> Callable[..., Any]:
    """`train_step` as (state, skips, frozen, batch, key) -> (state, skips, metrics), which keeps out what isn't finite.

    A step with a metric that is NaN or infinite (every stage reports its losses and the norms of its gradients) leaves
    all but the count of steps as it was. After `max_skipped` of them in a row every further step does.
    """

    def step(state: Any, skips: Skips, frozen: Any, batch: Any, key: Array) -> Any:
        new, metrics = train_step(state, frozen, batch, key)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(metrics)]))
        good = finite & (skips.in_a_row < max_skipped)
        kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
        skips = Skips(skips.total + ~good, jnp.where(good, 0, skips.in_a_row + 1))
        return dataclasses.replace(kept, step=new.step), skips, metrics | {"skipped": skips.total}

    return step


class SkipWatch:
    """Tells when too many steps in a row were skipped, from what the devices said a few steps ago: nobody waits."""

    LAG = 4

    def __init__(self, max_skipped: int):
        self._max_skipped = max_skipped
        self._pending: collections.deque[tuple[int, Any]] = collections.deque()

    def given_up_at(self, step: int, skips: Skips, *, last: bool = False) -> int | None:
        """The step at which the run gave up, if it did before `step` - LAG, or before `step` itself with `last`."""
        self._pending.append((step, skips.in_a_row))
        while self._pending and (last or len(self._pending) > self.LAG):
            then, in_a_row = self._pending.popleft()
            if int(in_a_row) >= self._max_skipped:
                return then
        return None


def jitted(config: Config, stage: Stage, placement: Placement) -> Any:
    """The step of a run, compiled at its first call or by `.lower(...)`; the state given to it is used up."""
    whole = placement.whole
    return jax.jit(
        guarded(stage.train_step, config.max_skipped),
        in_shardings=(placement.sharding, whole, whole, placement.rows, None),
        out_shardings=(placement.sharding, whole, whole),
        donate_argnums=0,  # the counts of skips are still read by SkipWatch
    )
