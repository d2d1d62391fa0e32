"""The captions that a prior led by texts draws images for, and the real pictures that they belong to."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from rqjax.api.batches import Batches
from rqjax.data import open_source
from rqjax.data.vocabulary import captions_of
from rqjax.errors import InputError
from rqjax.evaluation.images import Images
from rqjax.run.config import Config


class Pictures(NamedTuple):
    """Real ones, and their captions."""

    images: UInt8[np.ndarray, "b h w 3"]
    captions: list[str]


@dataclasses.dataclass(frozen=True)
class Captions:
    """The first captions of a split."""

    images: Images  # the whole split
    by_place: Mapping[int, str]  # of their pictures in it

    @classmethod
    def checked(cls, config: Config, path: str, split: str, most: int) -> "Captions":
        """The first `most` that a run held out, or of the set at `path`, or of either those of `split`.

        Pictures with an empty caption are left out. Raises InputError for images without captions, for latents in
        their place, and for fewer than two.
        """
        # token ids of the prior's vocabulary say nothing to CLIP, and the vocabulary's folder may be gone
        data = dataclasses.replace(config.data, text_length=0)
        if path:
            kind = "tars" if data.name == "tars" else "captions"
            images = Images.of_folder(data, path, split or config.eval_split, kind)
        elif data.name == "latents":
            raise InputError("the prior was trained on latents, without pictures: give these with captions as --data")
        else:
            images = Images.held_out(dataclasses.replace(config, data=data), split=split)
        source = open_source(dataclasses.replace(images.data, split=images.split))
        there = ((place, caption) for place, caption in enumerate(captions_of(source)) if caption.strip())
        by_place = dict(itertools.islice(there, most))
        if len(by_place) < 2:
            raise InputError(
                f"{len(by_place)} captions in split {images.split!r} of {images.data.path}, expected two: give another"
                " --data, --split or --count"
            )
        return cls(images, by_place)

    @property
    def texts(self) -> list[str]:
        """They themselves, in the order of their pictures."""
        return list(self.by_place.values())

    def about(self) -> dict[str, object]:
        """All that decides which they are."""
        digest = hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()
        return {**self.images.about(len(self.by_place)), "sha256_of_the_captions": digest}

    def pictures(self, batches: Batches) -> Iterator[Pictures]:
        """The real pictures, batch by batch, but for those that cannot be read."""
        last, place = max(self.by_place), 0
        for batch in self.images.batches(batches.most, batches.mesh, limit=last // batches.most + 1):
            images, counts = np.asarray(batch["image"]), np.asarray(batch["counts"])
            rows = [i for i in range(len(images)) if counts[i] and place + i in self.by_place]
            yield Pictures(images[rows], [self.by_place[place + i] for i in rows])
            place += len(images)
