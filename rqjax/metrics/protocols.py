"""How the public evaluators bring images to Inception and score them: figures compare under one protocol only."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rqjax.metrics.inception_score import equal_parts, inception_score, parts_of

SIDE = 299
"""Pixels of a side that Inception sees."""
WHITE = 255.0
"""The brightest pixel."""


@dataclasses.dataclass(frozen=True)
class Score:
    """How the Inception Score is taken."""

    bias: bool  # whether logits have the last layer's
    parts: int = 0  # so many equal ones; 0: as many as `size` makes
    size: int = 0  # images of a part
    seed: int | None = None  # of the shuffle; None: images stay in their order

    def of(self, logits: Float[Array | np.ndarray, "n k"]) -> tuple[float, float]:
        """Mean and standard deviation over the parts, of logits with the bias or without it as `bias` says."""
        edges = equal_parts(len(logits), self.parts) if self.parts else parts_of(len(logits), self.size)
        return inception_score(logits, edges, seed=self.seed)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One public evaluator. All take bytes; none rounds after the resize."""

    resize: str  # tf1, half_pixel or bicubic
    middle: float  # a pixel x in 0..255 becomes (x - middle) / middle
    weights: str  # the file that the evaluator itself reads
    score: Score | None  # None: it has no Inception Score

    def prepare(self, image: UInt8[Array | np.ndarray, "b h w 3"]) -> Float[Array, "b 299 299 3"]:
        """Images as Inception gets them."""
        return (resized(image, self.resize) - self.middle) / self.middle


PROTOCOLS = {
    "adm": Protocol("tf1", 128.0, "classify_image_graph_def.pb", Score(bias=False, size=5000)),
    "torch-fidelity": Protocol(
        "tf1", 128.0, "weights-inception-2015-12-05-6726825d.pth", Score(bias=False, parts=10, seed=2020)
    ),
    "pytorch-fid": Protocol("half_pixel", 127.5, "pt_inception-2015-12-05-6726825d.pth", None),
    "clean-fid": Protocol("bicubic", 128.0, "inception-2015-12-05.pt", None),
}
"""By the evaluator's name. The files hold the numbers of one network, in four forms."""


def resized(image: UInt8[Array | np.ndarray, "b h w 3"], kind: str) -> Float[Array, "b 299 299 3"]:
    """Images of 299x299 pixels, in 0..255.

    `tf1`: bilinear as TensorFlow 1, pixel i from i in / out; `half_pixel`: bilinear between the pixels' centres; both
    without smoothing when images shrink. `bicubic`: Pillow's, which smooths, on floats, clamped.
    """
    rows, columns = (jnp.asarray(_MATRICES[kind](side), jnp.float32) for side in image.shape[1:3])
    floats = jnp.asarray(image, jnp.float32)
    wide = jnp.einsum("xw, bhwc -> bhxc", columns, floats, precision="highest")
    found = jnp.einsum("yh, bhxc -> byxc", rows, wide, precision="highest")
    return jnp.clip(found, 0, WHITE) if kind == "bicubic" else found


def _tf1(side: int) -> np.ndarray:
    return _bilinear(np.arange(SIDE) * side / SIDE, side)


def _half_pixel(side: int) -> np.ndarray:
    return _bilinear(np.maximum((np.arange(SIDE) + 0.5) * side / SIDE - 0.5, 0), side)


def _bilinear(places: np.ndarray, side: int) -> np.ndarray:
    """The weights [299, side] of the two pixels about each place; beyond the last one it is repeated."""
    low = np.floor(places).astype(int)
    share, matrix = places - low, np.zeros((SIDE, side))
    rows = np.arange(SIDE)
    matrix[rows, low] += 1 - share
    matrix[rows, np.minimum(low + 1, side - 1)] += share
    return matrix


def _bicubic(side: int) -> np.ndarray:
    """The cubic of Keys (1981) with a = -1/2, as wide as a new pixel where images shrink; weights add up to 1."""
    scale = side / SIDE
    width = max(scale, 1.0)
    centres = (np.arange(SIDE) + 0.5) * scale
    x = np.abs((np.arange(side) + 0.5 - centres[:, None]) / width)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    matrix = np.where(x < 1, near, np.where(x < 2, far, 0))
    return matrix / matrix.sum(axis=1, keepdims=True)


_MATRICES = {"tf1": _tf1, "half_pixel": _half_pixel, "bicubic": _bicubic}
