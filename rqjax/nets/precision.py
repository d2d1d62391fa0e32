"""The precision that a model computes in: of a new one, and of one that is there already."""

import dataclasses
from typing import Any, TypeVar

import jax
from jaxtyping import Array, Key

from rqjax.mesh import platform
from rqjax.nets.decoding import in_compute_dtype
from rqjax.nets.init import DTYPES
from rqjax.nets.int8 import in_int8

Model = TypeVar("Model")
INT8 = "int8"
"""The precision of a prior whose layers have their weights in eight bits; everything else is floats."""
PRECISIONS = (*DTYPES, INT8)
"""The precisions that a prior draws in."""


def computed(dtype: str | None, on: str = "") -> str | None:
    """The type that a precision computes in: with int8 weights float32 on CPUs, bfloat16 elsewhere. `on` is a platform,
    by default that of mesh.platform().
    """
    return ("float32" if (on or platform()) == "cpu" else "bfloat16") if dtype == INT8 else dtype


def made_in(config: Any, key: Key[Array, ""], dtype: str | None, on: str = "") -> Any:
    """A new model of a configuration, a prior with another `dtype` as in_precision() makes it."""
    model = config.init(key)
    return model if dtype is None else in_precision(model, dtype, on)


def in_precision(prior: Any, dtype: str, on: str = "") -> Any:
    """A prior that computes as `dtype`, of PRECISIONS, says, with its parameters in it, but for its norms.

    With int8 those are the kernels of its layers, and its other arrays are as computed() says; see there for `on`.
    """
    floats = computed(dtype, on)
    assert floats is not None
    prior = computing_in(prior, floats)
    trained = in_int8(prior.trained) if dtype == INT8 else prior.trained
    return prior.with_trained(in_compute_dtype(trained, DTYPES[floats]))


def computing_in(model: Model, dtype: str | None) -> Model:
    """The model with the same arrays that computes as `dtype`, of PRECISIONS, says; itself for None.

    A model whose configuration has no `dtype` stays as it is. What it computes in float32 whatever its `dtype`, as a
    tokenizer's latents, stays in float32.
    """
    config: Any = getattr(model, "config", None)
    dtype = computed(dtype)
    if dtype is None or not hasattr(config, "dtype"):
        return model
    like = jax.eval_shape(dataclasses.replace(config, dtype=dtype).init, jax.random.key(0))
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(model))
