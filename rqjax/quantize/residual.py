"""Residual quantization: a vector becomes a sum of `depth` codes, each the nearest to what those before left over."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, Key

from rqjax.quantize.codebook import Codebook, nearest, perplexity, update, usage

Codebooks = tuple[Codebook, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualSettings:
    """What is fixed about a residual quantizer; hashable, so that it may be a static field of a model.

    `restart_threshold` is a count of vectors (spec of the reference: 1), 0 turns restarts off. `update_once_per_step`
    searches all depths in one book and updates it after the last, where the reference updates it after each.
    """

    depth: int
    latent_shape: tuple[int, int, int]  # height, width and width of a vector of the encoder's output
    code_shape: tuple[int, int]  # height and width of the grid of codes
    decay: tuple[float, ...]  # one for each codebook
    restart_threshold: float = 1.0
    update_once_per_step: bool = False
    restart_warning: float = 0.5  # the fraction of a book above which restarts are worth a warning

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the patch of the latent map that shares its codes."""
        return self.latent_shape[0] // self.code_shape[0], self.latent_shape[1] // self.code_shape[1]

    @property
    def dim(self) -> int:
        """The width of a code vector."""
        return self.window[0] * self.window[1] * self.latent_shape[2]

    def check(self) -> None:
        """Raises ValueError, in one line, for what cannot be run."""
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}: at least one code per position is needed")
        latent, grid = self.latent_shape[:2], self.code_shape
        if min(grid) < 1 or latent[0] % grid[0] or latent[1] % grid[1]:
            raise ValueError(f"a code grid of {grid} does not divide the latent grid {latent}: choose divisors of it")
        if len(self.decay) not in (1, self.depth):
            raise ValueError(f"{len(self.decay)} decays for depth {self.depth}: give one, or one for each codebook")
        if not all(0 <= decay < 1 for decay in self.decay):
            raise ValueError(f"decay is {self.decay}: expected values in [0, 1)")
        if self.restart_threshold < 0:
            raise ValueError(f"restart_threshold is {self.restart_threshold}: expected 0 (off) or a count of vectors")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
    """What comes out of the quantizer."""

    quantized: Any  # [b H W dim], float32: the full sums, through which gradients pass straight to z
    partial: Any  # [depth b h w dim'], float32: the sums up to each depth, on the grid of codes
    codes: Any  # [b h w depth], int32
    commitment: Any  # []: mean over depths of the mean squared distance of z to each partial sum
    metrics: Any  # usage [depth], perplexity [depth], restarted [depth], restart_warning []


def codebook_at(codebooks: Codebooks, index: int) -> Codebook:
    """The codebook of one depth: a single one serves all depths."""
    return codebooks[0] if len(codebooks) == 1 else codebooks[index]


def fold(z: Float[Array, "b height width dim"], settings: ResidualSettings) -> Float[Array, "b h w folded"]:
    """The latent map on the grid of codes: each window's vectors become one long vector."""
    rows, columns = settings.window
    return rearrange(z, "b (h r) (w c) d -> b h w (r c d)", r=rows, c=columns)


def unfold(z: Float[Array, "b h w folded"], settings: ResidualSettings) -> Float[Array, "b height width dim"]:
    """The inverse of `fold`."""
    rows, columns = settings.window
    return rearrange(z, "b h w (r c d) -> b (h r) (w c) d", r=rows, c=columns)


def quantize(
    codebooks: Codebooks,
    z: Float[Array, "b height width dim"],
    key: Key[Array, ""],
    settings: ResidualSettings,
    train: bool,
) -> tuple[Quantized, Codebooks]:
    """The quantized map and, when training, the codebooks that follow it (RQ-VAE, section 3.1).

    One codebook is shared by all depths and is updated after each of them, so later depths search what earlier
    depths changed; else there is one for each depth. z may be of any float type; everything here is float32.
    """
    z = fold(z.astype(jnp.float32), settings)
    flat = jax.lax.stop_gradient(rearrange(z, "b h w d -> (b h w) d"))
    codes, partial, codebooks, restarted = _descend(codebooks, flat, key, settings, train)
    shape = dict(zip("bhw", z.shape[:3], strict=True))
    partial = rearrange(jnp.stack(partial), "depth (b h w) d -> depth b h w d", **shape)
    codes = rearrange(jnp.stack(codes), "depth (b h w) -> b h w depth", **shape)
    quantized = Quantized(
        quantized=unfold(z + jax.lax.stop_gradient(partial[-1] - z), settings),
        partial=partial,
        codes=codes,
        commitment=jnp.mean(jnp.mean((z - partial) ** 2, axis=(0, 2, 3, 4))),  # of one image on one device
        metrics=_metrics(codebooks, codes, restarted, settings),
    )
    return quantized, codebooks


def _descend(codebooks: Codebooks, x: Array, key: Array, settings: ResidualSettings, train: bool):
    """Codes and partial sums of each depth, the codebooks after, and each update's fraction of restarts."""
    together = settings.update_once_per_step and len(codebooks) == 1
    books = list(codebooks)
    residual, reached = x, jnp.zeros_like(x)
    codes, partial, residuals, restarted = [], [], [], []
    for index in range(settings.depth):
        which = 0 if len(books) == 1 else index
        embed, decay = books[which].embed, settings.decay[min(which, len(settings.decay) - 1)]
        found = nearest(embed, residual)
        if train and not together:
            subkey = jax.random.fold_in(key, index)
            books[which], share = update(books[which], residual, found, subkey, decay, settings.restart_threshold)
            restarted.append(share)
        step = embed[found]  # from before the update
        codes.append(found)
        residuals.append(residual)
        residual, reached = residual - step, reached + step
        partial.append(reached)
    if train and together:
        everything = jnp.concatenate(residuals), jnp.concatenate(codes)
        books[0], share = update(books[0], *everything, key, settings.decay[0], settings.restart_threshold)
        restarted = [share] * settings.depth
    return codes, partial, tuple(books), restarted or [jnp.zeros(())] * settings.depth


def _metrics(
    codebooks: Codebooks, codes: Array, restarted: list[Array], settings: ResidualSettings
) -> dict[str, Array]:
    sizes = [codebook_at(codebooks, index).size for index in range(settings.depth)]
    shares = jnp.stack(restarted)
    return {
        "usage": jnp.stack([usage(codes[..., index], size) for index, size in enumerate(sizes)]),
        "perplexity": jnp.stack([perplexity(codes[..., index], size) for index, size in enumerate(sizes)]),
        "restarted": shares,
        # restarted codes hold vectors of this very batch: training then looks better than evaluation
        "restart_warning": (jnp.max(shares) > settings.restart_warning).astype(jnp.float32),
    }


def embed_codes_with_depth(codebooks: Codebooks, codes: Int[Array, "*grid depth"]) -> Float[Array, "*grid depth dim"]:
    """The vector of each code, not summed."""
    if len(codebooks) == 1:
        return codebooks[0].embed[codes]
    return jnp.stack([book.embed[codes[..., index]] for index, book in enumerate(codebooks)], axis=-2)


def embed_codes(
    codebooks: Codebooks, codes: Int[Array, "b h w depth"], settings: ResidualSettings
) -> Float[Array, "b height width dim"]:
    """The latent map that the codes stand for: their sum over depth, unfolded."""
    return unfold(jnp.sum(embed_codes_with_depth(codebooks, codes), axis=-2), settings)


def embed_partial(
    codebooks: Codebooks, codes: Int[Array, "b h w depth"], index: int, mode: str, settings: ResidualSettings
) -> Float[Array, "b height width dim"]:
    """The latent map of depth `index` (from 0) alone ("select"), or of all depths up to it ("add").

    Raises ValueError for another mode, or an index outside the depths.
    """
    if mode not in ("select", "add"):
        raise ValueError(f'mode is {mode!r}: expected "select" or "add"')
    if not 0 <= index < codes.shape[-1]:
        raise ValueError(f"depth index is {index}: these codes have depths 0 to {codes.shape[-1] - 1}")
    vectors = embed_codes_with_depth(codebooks, codes)
    first = index if mode == "select" else 0
    return unfold(jnp.sum(vectors[..., first : index + 1, :], axis=-2), settings)
