"""CLIP score: how well images fit the captions that they were drawn for, by CLIP ViT-B/32."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from rqjax.api.batches import Batches
from rqjax.data.clip_text import REMEDY as WORDS
from rqjax.data.clip_text import ClipVocabulary
from rqjax.errors import InputError
from rqjax.nets.clip import CLIP, TOKENS, prepared, token_rows
from rqjax.torchfile import published
from rqjax.torchfile.clip import REMEDY, load_clip

TITLE = "CLIP score"
"""The name under which its figures stand in a result."""
NO_WEIGHTS = "no CLIP score: it needs CLIP's weights (--clip FILE)"
AT_ONCE = 256
"""Images that are scaled to CLIP's size at once, 0.6 MB each."""


def check_files(path: str, vocabulary: str) -> None:
    """Raises InputError unless there is a file `path` of weights, and the folder of a vocabulary."""
    published.check_there("--clip", path, REMEDY)
    if not os.path.isdir(vocabulary):
        raise InputError(f"--clip_vocabulary={vocabulary!r} is not a folder: {WORDS}")


@dataclasses.dataclass(frozen=True)
class ClipScore:
    """CLIP as a judge of images with captions, with everything about it that decides figures."""

    network: CLIP
    vocabulary: ClipVocabulary
    about: Mapping[str, object]

    @classmethod
    def read(cls, path: str, folder: str, *, verify: bool = True) -> "ClipScore":
        """That of the published files: weights, and a folder of vocab.json and merges.txt.

        Raises InputError for others.
        """
        vocabulary = ClipVocabulary.read(folder)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        about = {
            "weights": pathlib.Path(path).name,
            "sha256": digest,
            "sha256_of_the_vocabulary": vocabulary.sha256,
            "resize": "the shorter side to 224 by Pillow's bicubic filter, rounded to bytes; the middle 224x224",
            "captions": f"the tokens of the transformers library, the first {TOKENS - 2}",
            "cosine": "of the vectors of an image and its caption; mean over images, no value cut off at 0",
        }
        return cls(load_clip(path, verify=verify), vocabulary, about)

    def cosines(
        self, images: UInt8[np.ndarray, "b h w 3"], captions: Sequence[str], batches: Batches
    ) -> Float[np.ndarray, "b"]:
        """For each image and its caption the cosine of their vectors, in [-1, 1], as float64."""
        compare = functools.partial(_cosines, batches.everywhere(self.network))
        rows, found = token_rows([self.vocabulary.ids(caption) for caption in captions]), [np.zeros(0)]
        for first in range(0, len(images), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            found.append(batches.run(compare, prepared(images[part]), rows[part]))
        return np.concatenate(found)


@jax.jit
def _cosines(network: CLIP, image: Float[Array, "b 224 224 3"], ids: Int[Array, "b n"]) -> Float[Array, "b"]:
    return network(image, ids)


def figures(cosines: Float[np.ndarray, "n"]) -> dict[str, float]:
    """The mean `cosine` of two images or more, `times_100` the same as many papers print it, and its standard error."""
    mean = float(np.mean(cosines))
    error = float(np.std(cosines, ddof=1) / len(cosines) ** 0.5)
    return {"cosine": mean, "cosine_standard_error": error, "times_100": 100 * mean}
