"""Images and captions as people have them: read as a person would, or left out by name, in training as in preparing."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rqjax.data import DataConfig, examples, open_source, rows_of_batches
from rqjax.data.prepare import prepare, splits_of
from rqjax.data.records import Manifest
from rqjax.data.vocabulary import learn

RED, WIDE = (200, 30, 30), (12, 10)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, bits: int, colours: int, rows: bytes) -> bytes:
    """A PNG whose head says what it likes."""
    head = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(x)) + name + x + struct.pack(">I", zlib.crc32(name + x)) for name, x in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def on_its_side() -> bytes:
    """Red above blue for a camera, which was held on its side."""
    upright = Image.new("RGB", (10, 20), RED)
    upright.paste((30, 30, 200), (0, 10, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(upright.transpose(Image.Transpose.ROTATE_90), "jpeg", quality=95, exif=exif)


def animated() -> bytes:
    frames = [Image.new("RGB", WIDE, colour) for colour in (RED, (0, 255, 0))]
    return encoded(frames[0], "webp", save_all=True, append_images=frames[1:], lossless=True)


red = Image.new("RGB", WIDE, RED)
jpeg = encoded(red, "jpeg", quality=95)
deep = (np.full((10, 12, 3), RED) * 256 + 77).astype(">u2")
noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
clear = Image.new("RGBA", WIDE, (0, 0, 0, 0))
READ = {
    "CMYK": (encoded(Image.new("CMYK", WIDE, (0, 217, 217, 55)), "jpeg", quality=95), RED),
    "16 bits of colour": (png(12, 10, 16, 2, b"".join(b"\0" + row.tobytes() for row in deep)), RED),
    "16 bits of gray": (encoded(Image.fromarray(np.full((10, 12), 90 * 256 + 3, np.uint16)), "png"), (90,) * 3),
    "a palette": (encoded(red.quantize(4), "png"), RED),
    "a palette with a transparent colour": (encoded(red.quantize(4), "png", transparency=0), (255,) * 3),
    "nothing but transparency": (encoded(clear, "png"), (255,) * 3),
    "gray and transparent": (encoded(Image.new("LA", WIDE, (90, 255)), "png"), (90,) * 3),
    "one bit": (encoded(Image.new("1", WIDE, 1), "png"), (255,) * 3),
    "progressive": (encoded(red, "jpeg", quality=95, progressive=True), RED),
    "a camera on its side": (on_its_side(), RED),
    "an animation": (animated(), RED),
    "a JPEG behind its end": (jpeg + b"\0" * 1000, RED),
}
LEFT_OUT = {
    "zero bytes": (b"", "UnidentifiedImageError"),
    "a page that says there is none": (b"<html>404</html>", "UnidentifiedImageError"),
    "a JPEG cut short": (encoded(noise, "jpeg")[:2000], "image file is truncated"),
    "a PNG cut short": (encoded(noise, "png")[:2000], "truncated"),
    "a GIF under another name": (encoded(red, "gif"), "UnidentifiedImageError"),
    "a bomb": (png(100_000, 100_000, 8, 2, b"\0" * 99), "pixels"),
    "a head without a size": (png(0, 0, 8, 2, b""), ""),
}
SMALL = {
    "one pixel": (encoded(Image.new("RGB", (1, 1), RED), "png"), "1x1 is no image to enlarge"),
    "a line": (encoded(Image.new("RGB", (1000, 4), RED), "png"), "1000x4 is no image to enlarge"),
}


def folder(tmp_path, content: bytes) -> DataConfig:
    """The odd image, and one that is good."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a.png").write_bytes(content)
    Image.new("RGB", WIDE, (0, 0, 99)).save(tmp_path / "from" / "b.png")
    return DataConfig(name="folder", path=str(tmp_path / "from"), holdout=0.0, size=8, resize=8, batch=2, threads=1)


def names_left_out(data: DataConfig, tmp_path) -> list[str]:
    prepare(splits_of(data), tmp_path / "set", per_shard=9, threads=1)
    return list(Manifest.read(tmp_path / "set").left_out)


@pytest.mark.parametrize("kind", READ)
def test_what_can_be_read_looks_as_it_should(kind, tmp_path):
    content, colour = READ[kind]
    data = folder(tmp_path, content)
    stream = examples(data)
    image = next(stream)["image"][0]
    assert stream.corrupt == {}
    assert np.abs(image[:3].astype(int) - colour).max() <= 6
    assert names_left_out(data, tmp_path) == []


@pytest.mark.parametrize("kind", LEFT_OUT | SMALL)
def test_what_cannot_be_read_is_left_out_by_name(kind, tmp_path):
    content, reason = (LEFT_OUT | SMALL)[kind]
    data = folder(tmp_path, content)
    stream = examples(data)
    batch = next(stream)
    assert batch["index"].tolist() == [1]
    assert [path.rpartition("/")[2] for path in stream.corrupt] == ["a.png"]
    assert reason in next(iter(stream.corrupt.values()))
    # what is only too small for this training is an image, and stays in a set
    assert len(names_left_out(data, tmp_path)) == (kind in LEFT_OUT)


@pytest.mark.parametrize("caption", ["", " ", "word " * 10_000, "w" * 100_000, "\u202e\u0301\x00[PAD]"])
def test_captions_of_any_length_fill_their_tokens(caption, tmp_path):
    red.save(tmp_path / "a.png")
    (tmp_path / "train.tsv").write_text(f"a.png\t{caption}\n")
    for name, content in learn(["word to word"], 40).files().items():
        (tmp_path / name).write_text(content)
    place = {"path": str(tmp_path), "vocabulary": str(tmp_path)}
    data = DataConfig(name="captions", **place, text_length=6, size=8, resize=8, batch=1, threads=1)
    with rows_of_batches(data, [0]) as stream:
        text = next(stream)["text"]
    assert text.shape == (1, 6)
    assert bool(text.any()) == bool(caption.strip())
    assert open_source(data)[0]["caption"] == caption.strip()
