"""Rows cut to the longest image of a batch: most images have far fewer tokens than the longest that there can be."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rqjax.dq.network import DQTransformerNetwork
from rqjax.dq.sequence import Rows
from rqjax.interface import Metrics

MaybeKey = Key[Array, ""] | None
Scored = tuple[Float[Array, ""], Metrics]
Score = Callable[[DQTransformerNetwork, Rows, MaybeKey], Scored]
T = TypeVar("T")


def trimmed(score: Score, lengths: tuple[int, ...], network: DQTransformerNetwork, rows: Rows, key: MaybeKey) -> Scored:
    """`score(network, rows, key)`, a loss and metrics, of rows that are cut to the shortest of `lengths` that no image
    of the batch exceeds; of whole rows if all are too short, or there are none.

    Each length is compiled. Gradients, of the loss by the network alone, are computed in the same branch as the loss,
    so nothing is held for branches that are not taken.
    """
    return _trimmed(score, lengths, network, rows, key) if lengths else score(network, rows, key)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _trimmed(
    score: Score, lengths: tuple[int, ...], network: DQTransformerNetwork, rows: Rows, key: MaybeKey
) -> Scored:
    return _at(lengths, rows, lambda cut: score(network, cut, key))


def _at(lengths: tuple[int, ...], rows: Rows, compute: Callable[[Rows], T]) -> T:
    """`compute` of the cut rows."""
    slots = rows.image.shape[1]
    choices = [*sorted(n for n in lengths if n < slots), slots]
    longest = jnp.max(jnp.sum(rows.filled, axis=1))
    branch = jnp.searchsorted(jnp.asarray(choices), longest)
    return jax.lax.switch(branch, [functools.partial(_cut, compute, n) for n in choices], rows)


def _cut(compute: Callable[[Rows], T], length: int, rows: Rows) -> T:
    tokens = jax.tree.map(lambda ids: ids[:, :length], rows.tokens)
    return compute(dataclasses.replace(rows, tokens=tokens, image=rows.image[:, :length]))


def _forward(
    score: Score, lengths: tuple[int, ...], network: DQTransformerNetwork, rows: Rows, key: MaybeKey
) -> tuple[Scored, DQTransformerNetwork]:
    return _at(lengths, rows, lambda cut: jax.value_and_grad(score, has_aux=True)(network, cut, key))


def _backward(
    score: Score, lengths: tuple[int, ...], gradient: DQTransformerNetwork, cotangent: Scored
) -> tuple[DQTransformerNetwork, None, None]:
    return jax.tree.map(lambda x: cotangent[0] * x, gradient), None, None


_trimmed.defvjp(_forward, _backward)
