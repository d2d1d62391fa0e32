import errno
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from rqjax.data import augment
from rqjax.data.loader import ImageLoader
from rqjax.data.pipeline import DataConfig, batches, examples, rows_of_batches
from rqjax.errors import InputError, RunError
from rqjax.files import PAUSES
from rqjax.mesh import make_mesh

PASSING = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT, errno.ECONNRESET)


def config(**changes) -> DataConfig:
    given = {"name": "synthetic", "count": 50, "size": 8, "resize": 12, "crop": "random", "flip": True, "batch": 8}
    return DataConfig(**given | {"threads": 2, **changes})


def take(stream, n: int) -> list[dict]:
    with stream:
        return [next(stream) for _ in range(n)]


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def photograph(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[:height, :width] / max(height, width)
    rgb = np.stack([np.sin(7 * x + k) * np.cos(5 * y * (k + 1)) for k in range(3)], -1)
    return Image.fromarray(np.uint8(127 + 120 * rgb))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def folder(path: pathlib.Path, n: int, side: int = 16) -> list[pathlib.Path]:
    files = [path / f"{i:03d}.png" for i in range(n)]
    for i, file in enumerate(files):
        Image.new("RGB", (side, side), (i, 255 - i, 7)).save(file)
    return files


# --- pixels


def test_every_mode_becomes_rgb():
    gray = Image.new("L", (6, 4), 90)
    clear = Image.new("RGBA", (6, 4), (10, 20, 30, 0))
    palette = Image.new("RGB", (6, 4), (200, 0, 0)).quantize(4)
    deep = Image.fromarray(np.full((4, 6), 90 * 256 + 3, np.uint16))
    cases = {
        (90, 90, 90): [
            encoded(gray, "png"),
            encoded(gray, "jpeg"),
            encoded(gray.convert("LA"), "png"),
            encoded(deep, "png"),
        ],
        (255, 255, 255): [
            encoded(clear, "png"),
            encoded(clear, "webp", lossless=True),
            encoded(gray, "png", transparency=90),
        ],
        (200, 0, 0): [encoded(palette, "png"), encoded(Image.new("RGB", (6, 4), (200, 0, 0)), "bmp")],
        (255, 0, 0): [encoded(Image.new("1", (6, 4), 1), "png")],
    }
    cases[255, 255, 255] += cases.pop((255, 0, 0))
    for colour, files in cases.items():
        for file in files:
            image = augment.pixels(file, 0, "bilinear")
            assert image.shape == (4, 6, 3)
            assert image.dtype == np.uint8
            assert np.abs(image.astype(int) - colour).max() <= 1
    cmyk = augment.pixels(encoded(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "jpeg"), 0, "bilinear")
    assert np.abs(cmyk.astype(int) - (255, 0, 0)).max() <= 4


def test_a_camera_held_on_its_side_makes_no_difference():
    upright = photograph(20, 30)
    for tag, undo in augment._UPRIGHT.items():
        back = {
            Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
            Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
        }
        exif = Image.Exif()
        exif[0x0112] = tag
        stored = encoded(upright.transpose(back.get(undo, undo)), "png", exif=exif)
        assert np.array_equal(augment.pixels(stored, 0, "bilinear"), np.asarray(upright))


def test_the_shorter_side_is_scaled_and_rounding_is_the_references():
    assert augment.pixels(encoded(photograph(375, 500), "png"), 256, "bilinear").shape == (256, 341, 3)
    assert augment.pixels(encoded(photograph(500, 375), "png"), 256, "bilinear").shape == (341, 256, 3)
    image = np.arange(7 * 10 * 3, dtype=np.uint8).reshape(7, 10, 3)
    assert np.array_equal(augment.center_crop(image, 4), image[2:6, 3:7])


def test_a_jpeg_read_small_looks_the_same():
    file = encoded(photograph(800, 1000), "jpeg", quality=95)
    fast, full = (augment.pixels(file, 100, "bilinear", draft).astype(int) for draft in (200, 0))
    assert augment.decode(file, 200).size == (250, 200)
    assert fast.shape == full.shape == (100, 125, 3)
    assert np.abs(fast - full).mean() < 1


def test_random_resized_crops_cover_the_share_of_the_area_that_was_asked_for():
    generator = np.random.default_rng(0)
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    spans = [np.ptp(augment.random_resized_crop(ramp, 50, generator, 0.75, "bilinear")) / 200 for _ in range(200)]
    assert 0.75**0.5 - 0.03 < min(spans) < 0.89
    assert 0.96 < max(spans) <= 1
    narrow = np.zeros((20, 200, 3), np.uint8)
    assert augment.random_resized_crop(narrow, 20, generator, 0.75, "bilinear").shape == (20, 20, 3)


def test_random_crops_reach_both_ends():
    generator = np.random.default_rng(0)
    image = np.broadcast_to(np.arange(6, dtype=np.uint8)[:, None, None], (6, 6, 3))
    starts = {int(augment.random_crop(image, 4, generator)[0, 0, 0]) for _ in range(60)}
    assert starts == {0, 1, 2}


# --- hostility


def test_only_the_documented_formats_are_decoded(tmp_path, monkeypatch):
    """Where Pillow may choose the format, PostScript in a .png runs: a stand-in for its interpreter would tell."""
    interpreter = tmp_path / "gs"
    interpreter.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
    others = [encoded(photograph(8, 8), kind) for kind in ("gif", "tiff", "ppm", "ico", "pcx", "tga")]
    for file in (program, *others):
        with pytest.raises(Image.UnidentifiedImageError):
            augment.decode(file)
    assert not (tmp_path / "ran").exists()


def test_the_scaled_size_is_bounded_before_it_is_made():
    for width, height in ((1_000_000, 1), (1, 1), (2, 3), (3, 5000), (4, 300)):
        file = encoded(Image.new("1", (width, height)), "png")
        with pytest.raises(ValueError, match=f"{width}x{height} is no image to enlarge"):
            augment.pixels(file, 32, "bilinear")
    assert augment.pixels(encoded(Image.new("1", (4, 256)), "png"), 32, "bilinear").shape == (2048, 32, 3)
    assert augment.pixels(encoded(Image.new("1", (3, 500)), "png"), 2, "bilinear").shape == (333, 2, 3)


class Failing:
    """A source whose first readings of an image fail as its errors say."""

    classes, left_out = ("images",), {}

    def __init__(self, *errors: Exception):
        self.errors = list(errors)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict:
        if self.errors and not index:
            raise self.errors.pop(0)
        return {"image": np.full((8, 8, 3), index, np.uint8), "label": index}

    def name(self, index: int) -> str:
        return f"image {index}"


def loaded(source: Failing) -> dict:
    given = {"size": 8, "side": 0, "draft": 0, "resample": "bilinear", "crop": "center", "min_scale": 1.0}
    load = ImageLoader(source=source, mirror=False, on_corrupt="skip", replace=True, **given)
    return load(0, np.random.default_rng(0))


def test_errors_that_pass_are_waited_for_and_never_count_as_corrupt_images(monkeypatch):
    waited = []
    monkeypatch.setattr("rqjax.files.time.sleep", waited.append)
    for error in (*(OSError(number, "x") for number in PASSING), MemoryError()):
        found = loaded(Failing(error, error))
        assert (found["index"], found["corrupt"]) == (0, {})
    assert waited == list(PAUSES[:2]) * (len(PASSING) + 1)
    with pytest.raises(RunError, match=r"image 0 cannot be read, tried 4 times .* Input/output error.*goes on"):
        loaded(Failing(*[OSError(errno.EIO, "Input/output error")] * 4))
    for error in (FileNotFoundError(errno.ENOENT, "gone"), OSError("broken data stream"), ValueError("x")):
        found = loaded(Failing(error))
        assert (found["index"], list(found["corrupt"])) == (1, ["image 0"])


# --- damage


def damage(files) -> dict[str, pathlib.Path]:
    files[3].write_bytes(files[3].read_bytes()[:60])
    files[4].write_bytes(b"<html>not found</html>")
    files[9].write_bytes(b"")
    return {str(files[i]): files[i] for i in (3, 4, 9)}


def test_damaged_files_are_replaced_by_the_next_and_named(tmp_path):
    files = folder(tmp_path, 12)
    damaged = damage(files)
    made = config(name="folder", path=str(tmp_path), holdout=0.0, shuffle=False, crop="center", flip=False)
    stream = rows_of_batches(made, range(8))
    first, second = take(stream, 2)
    assert first["index"].tolist() == [0, 1, 2, 5, 5, 5, 6, 7]
    assert second["index"].tolist() == [8, 10, 10, 11, 0, 1, 2, 5]
    assert first["image"][:, 0, 0, 0].tolist() == first["index"].tolist()
    assert stream.corrupt.keys() == damaged.keys()
    assert all("\n" not in reason for reason in stream.corrupt.values())
    again = take(rows_of_batches(made, range(8), 1), 1)[0]
    assert equal(again, second)


def test_examples_leave_damaged_files_out(tmp_path):
    damaged = damage(folder(tmp_path, 12))
    stream = examples(config(name="folder", path=str(tmp_path), holdout=0.0, batch=2))
    assert np.concatenate([x["index"] for x in stream]).tolist() == [0, 1, 2, 5, 6, 7, 8, 10, 11]
    assert stream.corrupt.keys() == damaged.keys()


def test_damaged_files_stop_the_run_if_asked_to(tmp_path):
    damage(folder(tmp_path, 12))
    made = config(name="folder", path=str(tmp_path), holdout=0.0, shuffle=False, on_corrupt="stop")
    with pytest.raises(InputError, match=r"003\.png cannot be read .*on_corrupt=skip"):
        take(rows_of_batches(made, range(8)), 1)
    with pytest.raises(InputError, match=r"003\.png"):
        list(examples(made))


def test_nothing_but_damage_stops_the_run(tmp_path):
    for file in folder(tmp_path, 3):
        file.write_bytes(b"no")
    with pytest.raises(InputError, match="3 images in a row cannot be read"):
        take(batches(config(name="folder", path=str(tmp_path), holdout=0.0), make_mesh()), 1)


def test_small_images_stop_the_run_with_both_sizes(tmp_path):
    folder(tmp_path, 9, side=20)
    for crop in ("random", "center", "random_resized"):
        made = config(name="folder", path=str(tmp_path), holdout=0.0, size=32, resize=0, crop=crop)
        with pytest.raises(InputError, match=r"\d\.png is 20x20, smaller than the 32x32 crop: set data\.resize=32"):
            take(batches(made, make_mesh()), 1)
    made.resize, made.crop = 32, "random"
    assert take(batches(made, make_mesh()), 1)[0]["image"].shape == (8, 32, 32, 3)


def test_bombs_count_as_damage(tmp_path, monkeypatch):
    folder(tmp_path, 2)
    Image.new("RGB", (100, 100)).save(tmp_path / "000.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    stream = examples(config(name="folder", path=str(tmp_path), holdout=0.0))
    assert next(stream)["index"].tolist() == [1]
    assert list(stream.corrupt) == [str(tmp_path / "000.png")]
