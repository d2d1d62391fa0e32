"""A small image classifier: it judges generated images by what real images taught it."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from rqjax.errors import InputError
from rqjax.nets.init import Rngs


@dataclasses.dataclass(kw_only=True)
class ClassifierConfig:
    """Three strided convolutions of `width`, 2 `width` and 4 `width` channels, a mean, a linear layer to `classes`."""

    width: int  # channels of the first convolution
    classes: int  # of the data

    def check(self) -> None:
        """Raises InputError for values that make no classifier."""
        if self.width < 1 or self.classes < 2:
            raise InputError(f"classifier of width {self.width} for {self.classes} classes: expected >= 1 and >= 2")

    def init(self, key: jax.Array) -> "Classifier":
        """A new classifier."""
        return Classifier(Network(self.width, self.classes, rngs=Rngs(key)))


class Network(nnx.Module):
    """Images to class logits."""

    def __init__(self, width: int, classes: int, *, rngs: nnx.Rngs):
        sizes = (3, width, 2 * width, 4 * width)
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), strides=2, rngs=rngs) for a, b in itertools.pairwise(sizes)])
        self.norms = nnx.List([nnx.GroupNorm(b, num_groups=8, rngs=rngs) for b in sizes[1:]])
        self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)

    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b classes"]:
        return self.head(self.features(image))

    def features(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b features"]:
        """The input of the last layer."""
        x = image
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x)))
        return jnp.mean(x, axis=(1, 2))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier as stages see a model: its trained part is `network`."""

    network: Network

    def loss(
        self, image: Float[Array, "b h w 3"], labels: Int[Array, " b"]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean cross-entropy, and the share of labels hit."""
        logits = self.network(image)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        return loss, {"loss": loss, "accuracy": jnp.mean(jnp.argmax(logits, -1) == labels)}

    def classify(self, image: Float[Array, "b h w 3"]) -> Int[Array, " b"]:
        """The likeliest class of each image in [-1, 1]."""
        return jnp.argmax(self.network(image), -1)
