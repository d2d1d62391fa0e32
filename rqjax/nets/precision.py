"""The precision that a model computes in, of one that is there already."""

import dataclasses
from typing import Any, TypeVar

import jax

Model = TypeVar("Model")


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
