"""How gradients get from quantized vectors to the vectors before, past the choice of codes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SHORT = 1e-8
"""The length under which a vector has no direction."""


def straight_through(x: Float[Array, "*grid dim"], quantized: Float[Array, "*grid dim"]) -> Float[Array, "*grid dim"]:
    """`quantized` in value, with the gradient of `x`."""
    return x + jax.lax.stop_gradient(quantized - x)


def rotate(x: Float[Array, "*grid dim"], quantized: Float[Array, "*grid dim"]) -> Float[Array, "*grid dim"]:
    """`quantized` in value, as `x` rotated and scaled by constants: a gradient keeps its angle to the vector.

    The rotation trick of Fifty et al. (2024): (|q| / |x|) (x - 2 w (w . x) + 2 q^ (x^ . x)) with x^ and q^ of length 1
    and w halfway between them. Gradients pass straight through where either vector is 0.
    """
    fixed, q = jax.lax.stop_gradient((x, quantized))
    length, q_length = _length(fixed), _length(q)
    x_unit, q_unit = fixed / jnp.maximum(length, SHORT), q / jnp.maximum(q_length, SHORT)
    between = x_unit + q_unit
    w = between / jnp.maximum(_length(between), SHORT)  # of opposite vectors 0, which leaves a reflection
    turned = x - 2 * w * _dot(w, x) + 2 * q_unit * _dot(x_unit, x)
    directed = (length > SHORT) & (q_length > SHORT)
    return jnp.where(directed, q_length / jnp.maximum(length, SHORT) * turned, straight_through(x, q))


def unit(x: Float[Array, "*grid dim"]) -> Float[Array, "*grid dim"]:
    """Vectors of length 1 in the direction of `x`; vectors of 0 stay, with gradients as they are."""
    square = _dot(x, x)
    return x * jax.lax.rsqrt(jnp.where(square > SHORT**2, square, 1.0))


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1, keepdims=True)


def _length(x: Array) -> Array:
    return jnp.sqrt(_dot(x, x))
