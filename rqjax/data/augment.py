"""Encoded bytes to pixels: decode to RGB, scale, crop, flip."""

import contextlib
import io
import re
import threading

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rqjax.errors import in_words

Pixels = UInt8[np.ndarray, "h w 3"]
Square = UInt8[np.ndarray, "{size} {size} 3"]  # of the argument `size`
FILTERS = {name: Image.Resampling[name.upper()] for name in ("bilinear", "bicubic", "lanczos")}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""Those that are decoded, whatever a file is called: one of Pillow's forty others runs the program in the file."""
LARGE = 2**25
"""Pixels from which one image at a time is decoded, since a few bytes may stand for a gigabyte of pixels."""
LEAST_SIDE, LONGEST = 4, 64
"""An image with fewer pixels on a side is not enlarged, and none that is so many times longer than it is high."""
_one_at_a_time = threading.Lock()
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, draft: int = 0) -> Image.Image:
    """An upright RGB image from the bytes of a file; transparency lies over white, of an animation the first frame.

    With `draft` > 0 a JPEG may come out at 1/2, 1/4 or 1/8 of its size, its shorter side still at least `draft` pixels:
    the decoder then skips the frequencies that a resize would throw away. Any exception but MemoryError means that the
    file is damaged, or of another format than FORMATS.
    """
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit and image.width * image.height > limit:
        raise ValueError(f"{image.width}x{image.height} exceeds Pillow's limit of {limit} pixels")
    if draft and image.format == "JPEG":
        image.draft(None, (draft, draft))
    with _one_at_a_time if image.width * image.height > LARGE else contextlib.nullcontext():
        image.load()
        return _upright(_rgb(image), image)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: keep the upper eight, since PIL's own conversion clips
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 2**16 - 1) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _upright(image: Image.Image, tagged: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(tagged.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata spoils no pixels; PIL raises many types here
        turn = None
    return image if turn is None else image.transpose(turn)


def scale(image: Image.Image, side: int, resample: str) -> Image.Image:
    """The image with its shorter side scaled to `side` pixels, antialiased; the longer one is rounded down.

    Raises ValueError for an image that would have to be enlarged and is too small for it, or a line.
    """
    shorter, longer = sorted(image.size)
    if shorter == side:
        return image
    if shorter < side and (shorter < LEAST_SIDE or longer > LONGEST * shorter):
        expected = f"expected {LEAST_SIDE} pixels at least, and at most {LONGEST} times as many on the other side"
        raise ValueError(f"{image.width}x{image.height} is no image to enlarge: {expected}")
    width, height = (side if x == shorter else int(side * x / shorter) for x in image.size)
    return image.resize((width, height), FILTERS[resample])


def pixels(image: bytes | UInt8[np.ndarray, "..."], side: int, resample: str, draft: int = 0) -> Pixels:
    """uint8 RGB of an encoded image or an array [h w], [h w 1] or [h w 3]; `side` = 0 leaves the size as it is.

    Raises whatever the decoder raises on damaged files.
    """
    if isinstance(image, np.ndarray):
        image = image[..., None] if image.ndim == 2 else image
        image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
        if not side or min(image.shape[:2]) == side:
            return image
        decoded = Image.fromarray(image)
    else:
        decoded = decode(image, draft)
    return np.asarray(scale(decoded, side, resample) if side else decoded)


def center_crop(image: Pixels, size: int) -> Square:
    """The central `size` x `size` pixels."""
    y, x = (round((n - size) / 2) for n in image.shape[:2])
    return image[y : y + size, x : x + size]


def random_crop(image: Pixels, size: int, generator: np.random.Generator) -> Square:
    """`size` x `size` pixels from a place drawn uniformly."""
    y, x = (int(generator.integers(n - size + 1)) if n > size else 0 for n in image.shape[:2])
    return image[y : y + size, x : x + size]


def random_resized_crop(
    image: Pixels, size: int, generator: np.random.Generator, min_scale: float, resample: str
) -> Square:
    """A square that covers a share of the area drawn from [`min_scale`, 1], scaled to `size` x `size` pixels.

    After ten squares that don't fit (a narrow image), the largest central one.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        side = round((height * width * generator.uniform(min_scale, 1.0)) ** 0.5)
        if 0 < side <= min(height, width):
            crop = random_crop(image, side, generator)
            break
    else:
        crop = center_crop(image, min(height, width))
    # cropped first, so that the filter sees no pixel outside of the crop
    return np.asarray(Image.fromarray(np.ascontiguousarray(crop)).resize((size, size), FILTERS[resample]))


def flip(image: Pixels, generator: np.random.Generator) -> Pixels:
    """The image, or with probability 1/2 its mirror image."""
    if generator.random() >= 0.5:
        return image
    mirrored = np.empty_like(image)
    for colour in range(image.shape[-1]):  # NumPy copies pixels of three bytes backwards five times as slowly
        mirrored[..., colour] = image[:, ::-1, colour]
    return mirrored


def reason_of(error: Exception) -> str:
    """A decoder's error in one line, the same at every start."""
    return re.sub(r"<_io.BytesIO object at \w+>", "its bytes", in_words(error))
