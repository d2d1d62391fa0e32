"""Soft codes: each depth's distribution over the book, which a prior may learn instead of the nearest code.

The distributions of a batch are [b h w depth codes]: 16.8 MB for one image of the published models. So `sample_codes`
returns the residuals instead, and `targets` recomputes the distribution of as few of them as fit.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, Key, Scalar

from rqjax.quantize.codebook import distances
from rqjax.quantize.residual import Codebooks, ResidualSettings, codebook_at, fold


def targets(
    embed: Float[Array, "codes dim"], residuals: Float[Array, "*grid dim"], temperature: float | Scalar
) -> Float[Array, "*grid codes"]:
    """softmax(-squared distance / temperature) over the codes, in float32."""
    return jax.nn.softmax(_logits(embed, residuals, temperature))


def _logits(embed: Array, residuals: Array, temperature: float | Scalar) -> Array:
    flat = residuals.reshape(-1, residuals.shape[-1])
    return (-distances(embed, flat) / temperature).reshape(*residuals.shape[:-1], embed.shape[0])


def sample_codes(
    codebooks: Codebooks,
    z: Float[Array, "b height width dim"],
    key: Key[Array, ""],
    settings: ResidualSettings,
    temperature: float | Scalar,
    stochastic: bool,
    chunk: int,
) -> tuple[Int[Array, "b h w depth"], Float[Array, "b h w depth folded"]]:
    """Codes drawn from the soft codes (the nearest, if not stochastic), and the residual that each was chosen for.

    Residuals follow the drawn codes. At most `chunk` positions of the grid are looked at together, in all images of the
    batch; the result does not depend on it. Temperature is above 0.
    """
    z = fold(z.astype(jnp.float32), settings)
    _, h, w, _ = z.shape
    size = max(size for size in range(1, min(max(chunk, 1), h * w) + 1) if h * w % size == 0)
    positions = rearrange(z, "b h w d -> (h w) b d")
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(h * w))

    def descend(x: Array, key: Array) -> tuple[Array, Array]:
        return _descend(codebooks, x, key, settings.depth, temperature, stochastic)

    codes, residuals = jax.lax.map(lambda args: descend(*args), (positions, keys), batch_size=size)
    return (
        rearrange(codes, "(h w) depth b -> b h w depth", h=h),
        rearrange(residuals, "(h w) depth b d -> b h w depth d", h=h),
    )


def _descend(codebooks: Codebooks, x: Array, key: Array, depth: int, temperature: float | Scalar, stochastic: bool):
    """Codes [depth b] and residuals [depth b dim] of one position of every image."""
    codes, residuals = [], []
    for index in range(depth):
        embed = codebook_at(codebooks, index).embed
        if stochastic:
            drawn = jax.random.categorical(jax.random.fold_in(key, index), _logits(embed, x, temperature))
        else:
            drawn = jnp.argmin(distances(embed, x), axis=-1)
        codes.append(drawn.astype(jnp.int32))
        residuals.append(x)
        x = x - embed[drawn]
    return jnp.stack(codes), jnp.stack(residuals)


def soft_codes(
    codebooks: Codebooks,
    z: Float[Array, "b height width dim"],
    key: Key[Array, ""],
    settings: ResidualSettings,
    temperature: float | Scalar,
    stochastic: bool,
) -> tuple[tuple[Float[Array, "b h w _"], ...], Int[Array, "b h w depth"]]:
    """Every depth's whole distribution over its book, and the codes of `sample_codes` for the same key.

    The plain form, for small grids and for tests.
    """
    codes, residuals = sample_codes(codebooks, z, key, settings, temperature, stochastic, chunk=z.shape[1] * z.shape[2])
    books = (codebook_at(codebooks, index).embed for index in range(settings.depth))
    return tuple(targets(book, residuals[..., i, :], temperature) for i, book in enumerate(books)), codes
