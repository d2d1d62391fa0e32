"""The precision that a model computes in: of a new one, and of one that is there already."""

import dataclasses
from typing import Any, TypeVar

import jax
from jaxtyping import Array, Key

from rqjax.nets.decoding import in_compute_dtype
from rqjax.nets.init import DTYPES

Model = TypeVar("Model")


def made_in(config: Any, key: Key[Array, ""], dtype: str | None) -> Any:
    """A new model of a configuration; a prior with another `dtype`, of nets.init.DTYPES, computes in it and has its
    parameters in it, but for its norms.
    """
    if dtype is None:
        return config.init(key)
    model = dataclasses.replace(config, dtype=dtype).init(key)
    return model.with_trained(in_compute_dtype(model.trained, DTYPES[dtype]))


def computing_in(model: Model, dtype: str | None) -> Model:
    """The model with the same arrays that computes in `dtype`, of nets.init.DTYPES; itself for None.

    A model whose configuration has no `dtype` stays as it is. What it computes in float32 whatever its `dtype`, as a
    tokenizer's latents, stays in float32.
    """
    config: Any = getattr(model, "config", None)
    if dtype is None or not hasattr(config, "dtype"):
        return model
    like = jax.eval_shape(dataclasses.replace(config, dtype=dtype).init, jax.random.key(0))
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(model))
