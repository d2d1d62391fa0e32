"""Frozen dataclasses as JAX pytrees whose constructor checks shapes, and whose copies by JAX are not checked."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import jax

Node = TypeVar("Node", bound=type)


def static(default: Any = dataclasses.MISSING) -> Any:
    """A field that belongs to the structure of a pytree; its value is hashable."""
    return dataclasses.field(default=default, metadata={"static": True})


def pytree(node: Node) -> Node:
    """Registers a dataclass, as jax.tree_util.register_dataclass does, but for how JAX rebuilds it.

    JAX puts shapes, shardings, or arrays with one more axis in the place of arrays. They don't pass through the
    constructor here, so fields may have jaxtyping's annotations, which a type checker of calls holds against it.
    """
    static_names = [field.name for field in dataclasses.fields(node) if field.metadata.get("static", False)]
    names = [field.name for field in dataclasses.fields(node) if field.name not in static_names]
    keys = [jax.tree_util.GetAttrKey(name) for name in names]

    def flatten(value: Any) -> tuple[tuple, tuple]:
        return tuple(getattr(value, name) for name in names), tuple(getattr(value, name) for name in static_names)

    def flatten_with_keys(value: Any) -> tuple[tuple, tuple]:
        children, statics = flatten(value)
        return tuple(zip(keys, children, strict=True)), statics

    def unflatten(statics: tuple, children: Iterable[Any]) -> Any:
        value = object.__new__(node)
        for name, child in [*zip(names, children, strict=True), *zip(static_names, statics, strict=True)]:
            object.__setattr__(value, name, child)
        return value

    jax.tree_util.register_pytree_with_keys(node, flatten_with_keys, unflatten, flatten)
    return node
