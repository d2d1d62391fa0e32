"""Models opened from a run directory, with what is known of them; a tokenizer's images to codes and back."""

import contextlib
import functools
import logging
from collections.abc import Generator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from rqjax.api.animation import Animation
from rqjax.api.batches import Batches
from rqjax.api.filmstrip import Filmstrip, bits_by_level, level_names, maps_of, psnr_by_level
from rqjax.api.inputs import FoundCodes, GivenCodes, Images, code_arrays, fitted, image_array, whole_number
from rqjax.api.pictures import Pictures, picture
from rqjax.api.pixels import decoded
from rqjax.api.publish import push
from rqjax.data.images import to_float, to_uint8
from rqjax.errors import InputError, printable
from rqjax.interface import Codes, Tokenizer
from rqjax.run.config import Config
from rqjax.run.directory import Run


class LoadedModel:
    """A trained model and what its run directory says of it. `model` is the model itself, as it was trained."""

    dtype: str | None = None  # of a prior's parameters and computation; None: as it was trained

    def __init__(self, run: Run, batches: Batches, *, ema: bool = True):
        self.run = run
        self._batches = batches
        self.ema = ema

    @functools.cached_property
    def model(self) -> Any:
        """A Tokenizer, a Prior or a Classifier, with methods of JAX arrays; `rqjax.official` takes it."""
        with _quiet():
            return self.run.model(ema=self.ema, dtype=self.dtype)

    @functools.cached_property
    def everywhere(self) -> Any:
        """The model, whole on every device that computes."""
        return self._batches.everywhere(self._computing())

    def _computing(self) -> Any:
        """The model in the form that it computes in."""
        return self.model

    @property
    def config(self) -> Config:
        """The configuration of its training."""
        return self.run.config

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of its data, by label; none if they are not known."""
        return self.run.classes

    @property
    def licences(self) -> list[str]:
        """The licences of its weights, each once."""
        return self.run.licences

    @property
    def licence(self) -> str:
        """The same in one line; empty if none is recorded."""
        return "; ".join(self.licences)

    def push(
        self, address: str, *, licence: str | None = None, private: bool | None = None, message: str | None = None
    ) -> str:
        """Publishes the model, a prior with its tokenizer, as hf://OWNER/NAME with a card; the address of the commit.

        `licence` is needed for weights without a recorded one; a new repository is `private` or not, as its owner's
        settings say if that is None. Raises InputError for weights without a licence, and for what the hub refuses.
        """
        tokenizer = self._coder()
        return push(
            self.run,
            tokenizer.run,
            address,
            codes=tokenizer.shapes,
            ema=self.ema,
            licence=licence,
            private=private,
            message=message,
        )

    def _coder(self) -> "LoadedTokenizer":
        """The tokenizer that goes with the model."""
        raise InputError(f"{self.run.path} holds a {type(self.model).__name__}: expected a tokenizer or a prior")

    def __repr__(self) -> str:
        size = sum(x.size for x in jax.tree.leaves(self.model))
        head = f"{type(self.model).__name__} of {size:,} numbers after {self.run.step:,} steps, from {self.run.path}"
        lines = (head, self._about(), f"licence of the weights: {self.licence or 'not recorded'}")
        return "\n  ".join(printable(line, 200) for line in lines)

    def _about(self) -> str:
        return f"{len(self.classes)} classes" if self.classes else "classes without names"


class LoadedTokenizer(LoadedModel):
    """A trained tokenizer: images to codes and back, in any number and over all devices."""

    model: Tokenizer

    @property
    def resolution(self) -> int:
        """The side of its images, in pixels."""
        return self.run.tokenizer_config.resolution

    def encode(self, images: Images, *, progress: bool = True) -> FoundCodes:
        """The codes of images, as NumPy arrays: [n h w depth] for RQ, quantize.dynamic.Codes for DQ.

        `images` are one or several, of PIL, or arrays or lists [n h w 3] of uint8 or of floats in [-1, 1]. Raises
        InputError for images of another size, type or range.
        """
        array = image_array(images, self.resolution)
        return self._batches.run(self._encode, array, progress="encoded" if progress else "")

    def _encode(self, part: UInt8[Array, "n h w 3"] | Float[Array, "n h w 3"]) -> Codes:
        return _encode(self.everywhere, to_float(part) if part.dtype == np.uint8 else part)

    def decode(self, codes: GivenCodes, depth: int | None = None, *, progress: bool = True) -> Pictures:
        """The images of codes, or of those of the first `depth` depths (RQ) or grains (DQ) alone.

        Raises InputError for codes of another shape or out of range, and for a depth that the model does not have.
        """
        arrays = self.keep(codes, depth=depth)
        decode = functools.partial(decoded, self.everywhere)
        images = self._batches.run(decode, arrays, progress="decoded" if progress else "")
        return Pictures(images=images, codes=arrays)

    def keep(self, codes: GivenCodes, *, rows: int | None = None, depth: int | None = None) -> FoundCodes:
        """Codes with -1 for all that lie below the first `rows` rows, or behind the first `depth` depths (RQ) or grains
        (DQ): a prior's generate(given=...) draws those anew. For DQ, rows are those of regions.
        """
        arrays, levels = code_arrays(codes, self.model), self.model.levels
        most = jax.tree.leaves(arrays)[-1].shape[1]
        rows = most if rows is None else whole_number(rows, "rows", 0, most)
        depth = levels if depth is None else whole_number(depth, "depth", 1, levels)
        kept = self.model.keep_first(jax.tree.map(jax.numpy.asarray, arrays), rows, depth)
        return jax.tree.map(np.asarray, kept)

    def interpolate(self, first: Images, second: Images, steps: int = 8, *, progress: bool = True) -> Pictures:
        """`steps` images from each of `first` to its like of `second`, both ends among them: a row of each pair.

        The vectors of the codes are mixed in equal steps and decoded as they are, without codes. Raises InputError for
        images that encode() refuses, or as many in one as not in the other.
        """
        steps = whole_number(steps, "steps", 2)
        ends = [image_array(images, self.resolution) for images in (first, second)]
        counts = [len(images) for images in ends]
        if counts[0] != counts[1]:
            raise InputError(f"{counts[0]} images and {counts[1]}: expected as many, to go from each to its like")
        ends = [self.encode(images, progress=False) for images in ends]
        pairs = [jax.tree.map(lambda x: np.repeat(x, steps, axis=0), codes) for codes in ends]
        shares = np.tile(np.linspace(0, 1, steps, dtype=np.float32), counts[0])
        between = functools.partial(_between, self.everywhere)
        images = self._batches.run(between, *pairs, shares, progress="decoded" if progress else "")
        return Pictures(images=images, rows=tuple(f"{pair + 1}" for pair in range(counts[0])))

    def fitted(self, image: Any) -> UInt8[np.ndarray, "h w 3"]:
        """The middle square of an image of any size (a file's bytes, PIL's, an array of bytes), as large as the model's
        images and scaled as those that it was trained on. Raises InputError for what is no image.
        """
        return fitted(image, self.resolution, self.config.data.filter)

    def filmstrip(self, images: Images, *, progress: bool = True) -> Filmstrip:
        """Images beside what the first 1, 2, ... depths of their codes (RQ) or grains (DQ) make of them, with the bits
        and the PSNR of each. Raises InputError for images that encode() refuses.
        """
        array = image_array(images, self.resolution)
        codes = self.encode(array, progress=progress)
        levels = [self.decode(codes, depth + 1, progress=progress).images for depth in range(self.model.levels)]
        originals = array if array.dtype == np.uint8 else np.asarray(to_uint8(array))
        maps = self._batches.run(functools.partial(maps_of, self.everywhere), array, codes)
        bits = self._batches.run(functools.partial(bits_by_level, self.everywhere), codes)
        return Filmstrip(
            originals=originals,
            maps={name: np.asarray(to_uint8(x)) for name, x in maps.items()},
            names=level_names(self.model),
            levels=np.stack(levels),
            bits=bits.T,
            psnr=psnr_by_level(originals, np.stack(levels)),
        )

    def coarse_to_fine(self, codes: GivenCodes, *, columns: int | None = None, progress: bool = True) -> Animation:
        """The images of codes that come row by row, those of the first depth (RQ) or grain (DQ) of all rows before the
        next, each frame one picture of all images, `columns` in a row. Raises InputError as decode() does.
        """
        arrays, levels = code_arrays(codes, self.model), self.model.levels
        high = jax.tree.leaves(arrays)[-1].shape[1]
        steps = []
        for level in range(1, levels + 1):
            before = self.keep(arrays, rows=0 if level == 1 else high, depth=max(level - 1, 1))
            parts = [self.keep(arrays, rows=row, depth=level) for row in range(1, high + 1)]
            # -1 stands for no code, so that the larger one is the code, where one of both has it
            steps += [jax.tree.map(np.maximum, before, part) for part in parts]
        decode = functools.partial(decoded, self.everywhere)
        flat = jax.tree.map(lambda *x: np.concatenate(x), *steps)
        images = self._batches.run(decode, flat, progress="decoded" if progress else "")
        across = columns or int(np.ceil((len(images) // len(steps)) ** 0.5))
        return Animation(np.stack([picture(part, across) for part in np.split(images, len(steps))]))

    @property
    def shapes(self) -> str:
        """The shapes of one image's codes, and how many values they have."""
        shapes = [(x.shape[1:], int(x.max())) for x in map(np.asarray, jax.tree.leaves(self.model.code_sizes))]
        return ", ".join(f"{'x'.join(map(str, shape))} of {most} values" for shape, most in shapes)

    def _coder(self) -> "LoadedTokenizer":
        return self

    def _about(self) -> str:
        return f"{self.resolution}x{self.resolution} images, codes {self.shapes}"


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keeps what orbax says of a checkpoint that was written by itself, and is whole, from a reader's terminal."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@jax.jit
def _encode(tokenizer: Tokenizer, image: Float[Array, "n h w 3"]) -> Codes:
    return tokenizer.encode(image)


@jax.jit
def _between(tokenizer: Tokenizer, first: Codes, second: Codes, share: Float[Array, "n"]) -> UInt8[Array, "n h w 3"]:
    """The images at a share of the way from the vectors of some codes to those of others."""
    share = share[:, None, None, None]
    return to_uint8(
        tokenizer.decode_vectors((1 - share) * tokenizer.vectors(first) + share * tokenizer.vectors(second))
    )
