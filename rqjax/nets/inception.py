"""The Inception network of FID: features, spatial features and logits of images, as the field's figures read them."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rqjax.mesh import platform, shards
from rqjax.nets.init import Rngs

SIDE = 299
"""Pixels of a side of the images that it was trained on; resizes to it differ (`rqjax.metrics.protocols`)."""
CLASSES = 1008
SPATIAL = (6, 7)
"""The mixed block whose first branch sFID reads, counted from 0, and how many of its channels."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A convolution: output channels, kernel, stride. `inside` leaves out windows that reach over the border."""

    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    inside: bool = False


@dataclasses.dataclass(frozen=True)
class Branch:
    """A pooling over 3x3, or none, and then steps; if `forked`, the last two both read what the one before gives."""

    name: str
    steps: tuple[Step, ...] = ()
    pool: Literal["", "mean", "max", "halving max"] = ""
    forked: bool = False


def _small(width: int) -> tuple[Branch, ...]:
    double = (Step(64), Step(96, (3, 3)), Step(96, (3, 3)))
    five = Branch("branch5x5", (Step(48), Step(64, (5, 5))))
    return Branch("branch1x1", (Step(64),)), five, Branch("branch3x3dbl", double), _pooled("mean", width)


def _long(width: int) -> tuple[Branch, ...]:
    row, column, last = Step(width, (1, 7)), Step(width, (7, 1)), (Step(192, (7, 1)), Step(192, (1, 7)))
    return (
        Branch("branch1x1", (Step(192),)),
        Branch("branch7x7", (Step(width), row, last[0])),
        Branch("branch7x7dbl", (Step(width), column, row, column, last[1])),
        _pooled("mean", 192),
    )


def _wide(pool: Literal["mean", "max"]) -> tuple[Branch, ...]:
    fork = (Step(384, (1, 3)), Step(384, (3, 1)))
    return (
        Branch("branch1x1", (Step(320),)),
        Branch("branch3x3", (Step(384), *fork), forked=True),
        Branch("branch3x3dbl", (Step(448), Step(384, (3, 3)), *fork), forked=True),
        _pooled(pool, 192),
    )


def _pooled(pool: Literal["mean", "max"], width: int) -> Branch:
    return Branch("branch_pool", (Step(width),), pool)


def _half(width: int) -> Step:
    return Step(width, (3, 3), stride=2, inside=True)


HALVES = Branch("pool", (), "halving max")
FIRST_HALVING = (Branch("branch3x3", (_half(384),)), Branch("branch3x3dbl", (Step(64), Step(96, (3, 3)), _half(96))))
LONG_HALVING = (Step(192), Step(192, (1, 7)), Step(192, (7, 1)), _half(192))
SECOND_HALVING = (Branch("branch3x3", (Step(192), _half(320))), Branch("branch7x7x3", LONG_HALVING))
STEM = {
    "1a_3x3": Step(32, (3, 3), stride=2, inside=True),
    "2a_3x3": Step(32, (3, 3), inside=True),
    "2b_3x3": Step(64, (3, 3)),
    "3b_1x1": Step(80),
    "4a_3x3": Step(192, (3, 3), inside=True),
}
"""The first convolutions by their published names; a pooling follows the third and the fifth."""
MIXED = {
    **{"5b": _small(32), "5c": _small(64), "5d": _small(64)},
    **{"6a": (*FIRST_HALVING, HALVES), "6b": _long(128), "6c": _long(160), "6d": _long(160), "6e": _long(192)},
    **{"7a": (*SECOND_HALVING, HALVES), "7b": _wide("mean"), "7c": _wide("max")},
}
"""The mixed blocks by their published names. Pooling by means in 7b and by maxima in 7c is what the TensorFlow graph of
2015 does, and no other Inception."""


LARGE = 4
"""The mixed blocks that read maps of 35x35; those before them are larger still."""


ONE_MORE = ((0, 1), (0, 1))
"""The padding of convolutions whose windows of 3x3 are whole: what reaches over the border is left out again. Without
any padding a CPU's convolutions take up to twice as long."""


class Outputs(NamedTuple):
    """The features that FID reads, and sFID's: the first channels of one branch, by rows, channels last."""

    features: Float[Array, "b 2048"]
    spatial: Float[Array, "b 2023"]


class Chain(nnx.Module):
    """One branch: convolutions with a bias, each followed by ReLU."""

    def __init__(self, inputs: int, branch: Branch, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.branch = branch
        convs, width = [], inputs
        for i, step in enumerate(branch.steps):
            convs.append(_conv(width, step, dtype, rngs))
            width = width if branch.forked and i == len(branch.steps) - 2 else step.width
        self.convs = nnx.List(convs)
        self.outputs = width + branch.steps[-2].width if branch.forked else width

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        x = pool(x, self.branch.pool) if self.branch.pool else x
        straight = len(self.convs) - 2 * self.branch.forked
        for conv in self.convs[:straight]:
            x = jax.nn.relu(_applied(conv, x))
        fork = [jax.nn.relu(_applied(conv, x)) for conv in self.convs[straight:]]
        return jnp.concatenate(fork, axis=-1) if fork else x


class Inception(nnx.Module):
    """Inception v3 as TensorFlow published it in December 2015, with batch normalisation folded into convolutions.

    As made it holds random weights: `rqjax.torchfile.inception` fills in the published ones. It is never trained.
    """

    def __init__(self, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        stem, width = [], 3
        for name, step in STEM.items():
            stem.append(Chain(width, Branch(name, (step,)), dtype=dtype, rngs=rngs))
            width = step.width
        blocks = []
        for branches in MIXED.values():
            blocks.append(nnx.List([Chain(width, branch, dtype=dtype, rngs=rngs) for branch in branches]))
            width = sum(chain.outputs for chain in blocks[-1])
        self.stem, self.blocks = nnx.List(stem), nnx.List(blocks)
        self.head = nnx.Linear(width, CLASSES, precision=jax.lax.Precision.HIGHEST, rngs=rngs)

    def __call__(self, image: Float[Array, "b 299 299 3"]) -> Outputs:
        """Both kinds of features of images in [-1, 1]."""
        x = image_by_image(self.large, image) if _in_one_cache() else self.large(image)
        spatial = x
        for i in range(LARGE, len(self.blocks)):
            outputs = [chain(x) for chain in self.blocks[i]]
            if i == SPATIAL[0]:
                spatial = rearrange(outputs[0][..., : SPATIAL[1]], "b h w c -> b (h w c)")
            x = jnp.concatenate(outputs, axis=-1)
        return Outputs(jnp.mean(x.astype(jnp.float32), axis=(1, 2)), spatial.astype(jnp.float32))

    def large(self, image: Float[Array, "b h0 w0 3"]) -> Float[Array, "b h w c"]:
        """The output of the stem and of the first LARGE blocks."""
        x = image
        for i, chain in enumerate(self.stem):
            x = chain(x)
            x = pool(x, "halving max") if i in (2, 4) else x
        for i in range(LARGE):
            x = jnp.concatenate([chain(x) for chain in self.blocks[i]], axis=-1)
        return x

    def logits(self, features: Float[Array, "b 2048"], *, bias: bool = True) -> Float[Array, "b 1008"]:
        """The logits of the features. ADM's and torch-fidelity's Inception Scores leave the bias out."""
        if bias:
            return self.head(features)
        return jnp.matmul(features, self.head.kernel[...], precision=jax.lax.Precision.HIGHEST)


def shapes(dtype: DTypeLike = jnp.float32) -> Inception:
    """Inception with shapes in place of arrays."""
    return jax.eval_shape(lambda: Inception(dtype=dtype, rngs=Rngs(0)))


def _in_one_cache() -> bool:
    """Whether images are computed one after the other, so that a layer finds in the cache what the one before it left:
    on a CPU, unless several devices share them out.
    """
    return platform() == "cpu" and shards(jax.sharding.get_abstract_mesh()) == 1


def image_by_image(layers: Callable[[Array], Array], image: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
    """The output of `layers`, which keep images apart, computed for one image after the other."""
    return jax.lax.map(lambda one: layers(one[None])[0], image)


def _conv(inputs: int, step: Step, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Conv:
    """In full precision: what accelerators do by default would be part of every figure."""
    padding = ONE_MORE if step.inside else "SAME"
    exact = jax.lax.Precision.HIGHEST
    return nnx.Conv(
        inputs, step.width, step.kernel, step.stride, padding=padding, dtype=dtype, precision=exact, rngs=rngs
    )


def _applied(conv: nnx.Conv, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
    """A convolution; of single pixels as a product of matrices, which is faster on a CPU."""
    if conv.padding == ONE_MORE:
        stride = conv.strides
        assert isinstance(stride, int)
        high, wide = ((side - 3) // stride + 1 for side in x.shape[1:3])
        return conv(x)[:, :high, :wide]
    if conv.kernel_size != (1, 1):
        return conv(x)
    assert conv.bias is not None
    kernel, bias = conv.kernel[...][0, 0].astype(conv.dtype), conv.bias[...].astype(conv.dtype)
    return jnp.matmul(x.astype(conv.dtype), kernel, precision=conv.precision) + bias


def pool(x: Float[Array, "b h w c"], kind: str) -> Float[Array, "b h2 w2 c"]:
    """Means of the pixels that a window of 3x3 has, or maxima; "halving max" has whole windows only, two pixels apart.

    One axis after the other, by slices: a CPU's window reductions take ten times as long.
    """
    if kind == "halving max":
        return _along(_along(x, 1, 2, jnp.maximum), 2, 2, jnp.maximum)
    fill = -jnp.inf if kind == "max" else 0
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)
    if kind == "max":
        return _along(_along(x, 1, 1, jnp.maximum), 2, 1, jnp.maximum)
    inside = jnp.pad(jnp.ones((1, x.shape[1] - 2, x.shape[2] - 2, 1), x.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
    total, count = (_along(_along(y, 1, 1, jnp.add), 2, 1, jnp.add) for y in (x, inside))
    return total / count


def _along(x: Float[Array, "b h w c"], axis: int, stride: int, join: Callable[..., Array]) -> Float[Array, "b h2 w2 c"]:
    first, second, third = (jax.lax.slice_in_dim(x, i, x.shape[axis] - 2 + i, stride, axis) for i in range(3))
    return join(join(first, second), third)
