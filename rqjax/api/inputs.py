"""Images, codes and whole numbers of people as the arrays that models take. All else is refused in one line."""

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree, UInt8
from PIL import Image

from rqjax.data.augment import center_crop, pixels
from rqjax.errors import InputError, printable
from rqjax.interface import Tokenizer

Images: TypeAlias = Any
"""One image or several: of PIL, arrays [h w 3] or [n h w 3] of uint8 or of floats in [-1, 1], or lists of these. Any,
since arrays of every library are taken."""
FoundCodes: TypeAlias = PyTree[Int[np.ndarray, "n ..."]]
"""Codes as a tokenizer gives them, in NumPy's arrays: [n h w depth] for RQ, quantize.dynamic.Codes for DQ."""
GivenCodes: TypeAlias = Any
"""The same with arrays of any library, or lists, in the places of NumPy's."""


def image_array(images: Images, size: int) -> UInt8[np.ndarray, "n h w 3"] | Float[np.ndarray, "n h w 3"]:
    """Images as one array, of bytes or of float32 in [-1, 1]. Raises InputError for any that are not `size` x `size`
    in colour, and for pixels of another type or range.
    """
    if isinstance(images, Image.Image):
        images = [images]
    if isinstance(images, Sequence) and not isinstance(images, str):
        images = [np.asarray(x.convert("RGB")) if isinstance(x, Image.Image) else x for x in images]
    array = _array(images, "images")
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[1:] != (size, size, 3) or not len(array):
        raise InputError(
            f"images have shape {array.shape}: this model takes {size}x{size} pixels in colour, (n, {size}, {size}, 3);"
            f" of PIL use image.resize(({size}, {size}))"
        )
    if array.dtype == np.uint8:
        return array
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f"images are of {array.dtype}: expected uint8 in 0..255, or floats in [-1, 1]")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError("images have pixels that are NaN or infinite: expected floats in [-1, 1]")
    low, high = float(array.min()), float(array.max())
    if low < -1 or high > 1:
        raise InputError(f"images have pixels from {low:g} to {high:g}: expected floats in [-1, 1], or bytes as uint8")
    return array


def fitted(image: Any, size: int, resample: str = "bilinear") -> UInt8[np.ndarray, "size size 3"]:
    """The middle square of an image of any size and shape, scaled to `size` pixels a side.

    `image` is the content of a file (bytes), of PIL, or an array of bytes [h w], [h w 1] or [h w 3]. Raises InputError
    for a file that cannot be read, and for a line that is no image to enlarge.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if not isinstance(image, bytes | np.ndarray):
        raise InputError(f"the image is a {type(image).__name__}: expected the bytes of a file, PIL's, or an array")
    if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or image.ndim not in (2, 3)):
        raise InputError(f"the image is {image.dtype} of shape {image.shape}: expected uint8, (h, w) or (h, w, 3)")
    try:
        return center_crop(pixels(image, size, resample), size)
    except Exception as error:  # a decoder raises whatever it likes about a damaged file
        reason = printable(" ".join(str(error).split()) or type(error).__name__, 160)
        raise InputError(f"the image cannot be read ({reason}): expected a JPEG, PNG, WebP or BMP") from None


def code_arrays(codes: GivenCodes, tokenizer: Tokenizer, least: int = 0, name: str = "codes") -> FoundCodes:
    """Codes as int32 arrays in the structure of the tokenizer's. Raises InputError for codes of another structure or
    shape, and for values below `least` (-1 stands for no code) or that the tokenizer does not have.
    """
    sizes = tokenizer.code_sizes
    wanted, structure = jax.tree.flatten(sizes)
    if structure != jax.tree.structure(0):  # of several arrays
        if not isinstance(codes, type(sizes)):
            raise InputError(f"{name} are a {type(codes).__name__}: expected {type(sizes).__name__}, as encode() gives")
        found = jax.tree.leaves(codes, is_leaf=lambda x: isinstance(x, list))
    else:
        found = [codes]
    arrays = [_code_array(x, np.asarray(size), least, name) for x, size in zip(found, wanted, strict=True)]
    if len({len(x) for x in arrays}) > 1:
        raise InputError(f"{name} are of {' and '.join(str(len(x)) for x in arrays)} images: expected as many in each")
    return jax.tree.unflatten(structure, arrays)


def _code_array(values: Any, sizes: np.ndarray, least: int, name: str) -> np.ndarray:
    array, expected = _array(values, name), ("n", *sizes.shape[1:])
    if array.shape[1:] != sizes.shape[1:] or not len(array):
        shown = str(expected).replace("'", "")
        raise InputError(f"{name} have shape {array.shape}: this model has codes of shape {shown}")
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} are of {array.dtype}: expected whole numbers")
    wrong = (array < least) | (array >= sizes)
    if np.any(wrong):
        place = np.unravel_index(np.argmax(wrong), array.shape)
        size = int(np.broadcast_to(sizes, array.shape)[place])
        raise InputError(f"{name} have a {array[place]}, which is out of range: expected {least} to {size - 1}")
    return array.astype(np.int32)


def _array(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} make no array ({printable(error, 100)}): expected all of one shape") from None
    if array.dtype == object or array.ndim == 0:
        raise InputError(f"{name} are a {type(values).__name__}: expected arrays or lists of numbers")
    return array


def whole_number(value: Any, name: str, least: int, most: int = 2**31 - 1) -> int:
    """`value` as an int. Raises InputError for one that is no whole number, or out of range."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {printable(repr(value), 60)}: expected a whole number") from None
    if isinstance(value, bool) or not least <= number <= most:
        raise InputError(f"{name} is {value}: expected a whole number from {least} to {most}")
    return number
