"""CLIP ViT-B/32: images and texts as unit vectors, whose product says how well they fit (Radford et al. 2021)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from rqjax.nets.init import Rngs
from rqjax.nets.transformer import BlockSettings, Stack, layer_norm

SIDE, PATCH, TOKENS = 224, 32, 77
"""Pixels of a side of an image and of its patches, and the tokens of a text at most, with those of start and end."""
START, END = 49406, 49407
"""Tokens of the start and the end of a text; the end has the largest id."""
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels in [0, 1] of each channel, as the images of its training were scaled by."""


class Sizes(NamedTuple):
    """A CLIP. The defaults are those of ViT-B/32; its heads have 64 dimensions."""

    dim: int = 512  # of the vectors that are compared
    image_dim: int = 768
    image_layers: int = 12
    text_dim: int = 512
    text_layers: int = 12
    tokens: int = END + 1
    head: int = 64


class ImageTower(nnx.Module):
    """A ViT, whose first token stands for the image."""

    def __init__(self, sizes: Sizes, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dim = sizes.image_dim
        kernel, exact = (PATCH, PATCH), jax.lax.Precision.HIGHEST
        self.patches = nnx.Conv(3, dim, kernel, kernel, padding="VALID", use_bias=False, precision=exact, rngs=rngs)
        self.first = nnx.Param(jnp.zeros(dim))
        self.positions = nnx.Embed((SIDE // PATCH) ** 2 + 1, dim, rngs=rngs)
        self.norm1 = layer_norm(dim, rngs)
        block = BlockSettings(causal=False, sigmoid_gelu=True, dtype=dtype)
        self.stack = Stack(sizes.image_layers, dim, dim // sizes.head, block, remat=False, rngs=rngs)
        self.norm2 = layer_norm(dim, rngs)
        self.out = nnx.Linear(dim, sizes.dim, use_bias=False, precision=exact, rngs=rngs)

    def __call__(self, image: Float[Array, "b 224 224 3"]) -> Float[Array, "b dim"]:
        """The vectors of images as `prepared` gives them, not of unit length."""
        x = rearrange(self.patches(image), "b h w c -> b (h w) c")
        first = jnp.broadcast_to(self.first[...], (len(x), 1, x.shape[-1]))
        x = self.norm1(jnp.concatenate([first, x], axis=1) + self.positions.embedding[...])
        return self.out(self.norm2(self.stack(x)[:, 0]))


class TextTower(nnx.Module):
    """A causal transformer, whose token of the end stands for the text."""

    def __init__(self, sizes: Sizes, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dim = sizes.text_dim
        self.embed = nnx.Embed(sizes.tokens, dim, rngs=rngs)
        self.positions = nnx.Embed(TOKENS, dim, rngs=rngs)
        block = BlockSettings(causal=True, sigmoid_gelu=True, dtype=dtype)
        self.stack = Stack(sizes.text_layers, dim, dim // sizes.head, block, remat=False, rngs=rngs)
        self.norm = layer_norm(dim, rngs)
        self.out = nnx.Linear(dim, sizes.dim, use_bias=False, precision=jax.lax.Precision.HIGHEST, rngs=rngs)

    def __call__(self, ids: Int[Array, "b n"]) -> Float[Array, "b dim"]:
        """The vectors of texts, not of unit length. A row is START, tokens, END; anything may stand behind that."""
        x = self.embed(ids) + self.positions.embedding[...][: ids.shape[1]]
        x = self.norm(self.stack(x))
        last = jnp.argmax(ids, axis=1)  # the first of the largest: END
        return self.out(jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0])


class CLIP(nnx.Module):
    """Both towers. As made it holds random weights: `rqjax.torchfile.clip` fills in the published ones."""

    def __init__(self, sizes: Sizes | None = None, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        sizes = Sizes() if sizes is None else sizes
        self.image = ImageTower(sizes, dtype=dtype, rngs=rngs)
        self.text = TextTower(sizes, dtype=dtype, rngs=rngs)

    def __call__(self, image: Float[Array, "b 224 224 3"], ids: Int[Array, "b n"]) -> Float[Array, "b"]:
        """How well each image fits its text: the cosine of their vectors, in [-1, 1]."""
        with jax.default_matmul_precision("highest"):
            return jnp.sum(_unit(self.image(image)) * _unit(self.text(ids)), axis=-1)


def shapes(sizes: Sizes | None = None, dtype: DTypeLike = jnp.float32) -> CLIP:
    """CLIP with shapes in place of arrays."""
    return jax.eval_shape(lambda: CLIP(sizes, dtype=dtype, rngs=Rngs(0)))


def prepared(images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b 224 224 3"]:
    """Images as CLIP was trained to see them: their shorter side made 224 by Pillow's bicubic filter, which rounds to
    bytes, the middle cut out, channels scaled by MEAN and DEVIATION.
    """
    mean, deviation = (np.asarray(x, np.float32) for x in (MEAN, DEVIATION))
    seen = np.stack([_middle(image) for image in images]) if len(images) else np.zeros((0, SIDE, SIDE, 3), np.uint8)
    return ((seen.astype(np.float32) / 255 - mean) / deviation).astype(np.float32)


def _middle(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "224 224 3"]:
    high, wide = image.shape[:2]
    scaled = [SIDE if side == min(high, wide) else int(SIDE * side / min(high, wide)) for side in (high, wide)]
    picture = np.asarray(Image.fromarray(image).resize((scaled[1], scaled[0]), Image.Resampling.BICUBIC))
    top, left = (round((side - SIDE) / 2) for side in scaled)
    return picture[top : top + SIDE, left : left + SIDE]


def token_rows(texts: Sequence[Sequence[int]]) -> Int[np.ndarray, "b 77"]:
    """The rows of texts by the ids of their tokens, cut off where they are longer, with START and END around them."""
    rows = np.full((len(texts), TOKENS), END, np.int32)
    for row, ids in zip(rows, texts, strict=True):
        kept = list(ids)[: TOKENS - 2]
        row[: len(kept) + 2] = [START, *kept, END]
    return rows


def _unit(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
