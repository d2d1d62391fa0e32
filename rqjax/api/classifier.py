"""A classifier opened from a run directory: the classes of images, and how sure it is of them."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from rqjax.api.inputs import Images, image_array
from rqjax.api.loaded import LoadedModel
from rqjax.data.images import to_float
from rqjax.nets.classifier import Classifier, ClassifierConfig


class LoadedClassifier(LoadedModel):
    """A classifier for any number of images and over all devices. Called, it is a scorer of a prior's images."""

    model: Classifier

    @property
    def resolution(self) -> int:
        """The side of the images that it was trained on, in pixels."""
        return self.config.data.size

    @property
    def known(self) -> int:
        """The number of classes that it tells apart."""
        config = self.config.stage.model
        assert isinstance(config, ClassifierConfig)  # load() looked
        return config.classes

    def log_probabilities(self, images: Images) -> Float[np.ndarray, "n classes"]:
        """Of each class for each image. Raises InputError for images that a tokenizer's encode() would refuse."""
        return self._batches.run(self._of_batch, image_array(images, self.resolution))

    def classify(self, images: Images) -> Int[np.ndarray, "n"]:
        """The likeliest class of each image."""
        return np.argmax(self.log_probabilities(images), axis=1)

    def __call__(self, images: Images, labels: Int[np.ndarray, "n"], /) -> Float[np.ndarray, "n"]:
        """The log-probability of each image's label."""
        return np.take_along_axis(self.log_probabilities(images), np.asarray(labels)[:, None], axis=1)[:, 0]

    def _of_batch(self, images: Any) -> Any:
        return _log_probabilities(self.everywhere, images)


@jax.jit
def _log_probabilities(
    classifier: Classifier, images: UInt8[Array, "n h w 3"] | Float[Array, "n h w 3"]
) -> Float[Array, "n classes"]:
    return jax.nn.log_softmax(classifier.network(to_float(images) if images.dtype == np.uint8 else images))
