"""Conditions of priors, for RQ and DQ alike: nothing, a class or a text in front of an image's codes."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from rqjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class NoCondition:
    """A single start token, the same for every image."""

    field = None
    length = 1
    size = 1
    choices = 1

    def ids(self, values: Int[Array, "b ..."]) -> Int[Array, "b 1"]:
        """Zeros, one for each row of `values`."""
        return jnp.zeros((values.shape[0], 1), jnp.int32)

    def null(self, count: int) -> Int[Array, "b 1"]:
        return jnp.zeros((count, 1), jnp.int32)

    def check(self, values: Array | np.ndarray) -> None:
        """Raises InputError unless there is one value for each image; which one does not matter."""
        if values.ndim != 1:
            raise InputError(f"labels have shape {tuple(values.shape)}: an unconditional model expects ('b',)")


@dataclasses.dataclass(frozen=True)
class ClassCondition:
    """One of `classes`; with `droppable`, one more id stands for no class."""

    classes: int
    droppable: bool = False
    field = "label"
    length = 1

    @property
    def size(self) -> int:
        return self.classes + self.droppable

    @property
    def choices(self) -> int:
        return self.classes

    def ids(self, values: Int[Array, "b"]) -> Int[Array, "b 1"]:
        return values.astype(jnp.int32)[:, None]

    def null(self, count: int) -> Int[Array, "b 1"]:
        """The id behind the last class. Raises InputError for a model without one."""
        if not self.droppable:
            raise InputError("this prior was trained with its class at all times: it has no id for none")
        return jnp.full((count, 1), self.classes, jnp.int32)

    def check(self, values: Array | np.ndarray) -> None:
        """Raises InputError for labels of another shape, or that are no class."""
        if values.ndim != 1:
            raise InputError(f"labels have shape {tuple(values.shape)}: this model expects ('b',), one class an image")
        check_range("label", values, self.classes)


@dataclasses.dataclass(frozen=True)
class TextCondition:
    """A text of `length` tokens out of `size`, padded with 0."""

    size: int
    length: int
    field = "text"
    choices = 0

    def ids(self, values: Int[Array, "b length"]) -> Int[Array, "b length"]:
        return values.astype(jnp.int32)

    def null(self, count: int) -> Int[Array, "b length"]:
        """An empty text: nothing but padding."""
        return jnp.zeros((count, self.length), jnp.int32)

    def check(self, values: Array | np.ndarray) -> None:
        """Raises InputError for texts of another length, or with tokens out of range."""
        if values.ndim != 2 or values.shape[1] != self.length:
            raise InputError(f"labels have shape {tuple(values.shape)}: this model expects ('b', {self.length}), texts")
        check_range("token", values, self.size)


AnyCondition = NoCondition | ClassCondition | TextCondition


def condition(classes: int, text_size: int = 0, text_length: int = 0, droppable: bool = False) -> AnyCondition:
    """The condition of a configuration: a text if there is one, else a class, else nothing. A `droppable` class has an
    id for none; of a text that is the empty one.
    """
    if text_size:
        return TextCondition(text_size, text_length)
    return ClassCondition(classes, droppable) if classes else NoCondition()


def check_choice(classes: int, text_vocab: int) -> None:
    """Raises InputError for a configuration that asks for classes and texts at once, or for fewer than none."""
    if min(classes, text_vocab) < 0 or (classes and text_vocab):
        raise InputError(f"classes={classes} and text_vocab={text_vocab}: at most one may be above 0")


def check_dropout(condition: AnyCondition, rate: float) -> None:
    """Raises InputError for a share of images that are trained without their condition, where there is none."""
    if rate and condition.field is None:
        raise InputError(f"condition_dropout is {rate} for a prior without classes or texts: set it to 0")


def labels_of(batch: Mapping[str, Array], field: str | None) -> Int[Array, "b ..."]:
    """The values of a condition's `field` in a batch; without one a zero for each image."""
    return batch[field] if field else jnp.zeros(len(next(iter(batch.values()))), jnp.int32)


def check_range(name: str, values: Array | np.ndarray, size: int) -> None:
    """Raises InputError for a value outside [0, size). Values inside jit, or spread over hosts, are not looked at."""
    traced = isinstance(values, jax.core.Tracer)
    if traced or not values.size or (isinstance(values, jax.Array) and not values.is_fully_addressable):
        return
    values = np.asarray(values)
    outside = values[(values < 0) | (values >= size)]
    if outside.size:
        raise InputError(f"{name} {outside[0]} is out of range: this model has {size}, from 0 to {size - 1}")
