"""Activations that are computed again in the backward pass, instead of kept: all, or all that cost little."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name

T = TypeVar("T")
PRODUCT = "product"
"""The name of results of convolutions; those of matrix products are known by themselves."""
POLICIES = jax.checkpoint_policies


def recomputed(
    function: Callable[..., T], remat: bool, keep_products: bool, *, prevent_cse: bool = True
) -> Callable[..., T]:
    """`function`, whose activations are kept for the backward pass; with `remat` computed again.

    With both, the results of its convolutions and of products with weights are kept. The rest, norms, dropout,
    activation functions and attention among few tokens, is cheap to compute and several times as large.
    """
    if not remat:
        return function
    products = POLICIES.save_from_both_policies(
        POLICIES.dots_with_no_batch_dims_saveable, POLICIES.save_only_these_names(PRODUCT)
    )
    return jax.checkpoint(function, prevent_cse=prevent_cse, policy=products if keep_products else None)


def product(x: jax.Array) -> jax.Array:
    """`x`, known as the result of a convolution."""
    return checkpoint_name(x, PRODUCT)
