"""Outputs: refused before the work begins, whole or not there, of the format that their names end in."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from rqjax.errors import InputError, RunError
from rqjax.store import outputs

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
ENDINGS = (*outputs.PICTURES, outputs.ARRAYS, outputs.FOLDER)


@pytest.fixture
def place(tmp_path):
    """A folder with something of each kind in it."""
    (tmp_path / "file").touch()
    (tmp_path / "old.png").touch()
    (tmp_path / "dangling.png").symlink_to("nowhere")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0.png").touch()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.gif", r"expected a name that ends in one of .png, .jpg, .jpeg, .webp, .npz, a folder"),
        ("a.PNG.tiff", "expected a name that ends in one of"),
        ("folder.png", "is a folder: name a file in it"),
        ("old.png", "exists already: choose another name, or pass --overwrite"),
        ("dangling.png", "exists already"),
        ("file", "is a file: choose another name"),
        ("file/a.png", r"cannot be written \(Not a directory\): choose another place"),
        ("pictures/", "is not empty: choose another folder, or pass --overwrite"),
        ("x" * 300 + ".png", r"cannot be written \(File name too long\)"),
        ("a/../..", "expected a file or folder of this machine"),
    ],
)
def test_a_place_that_cannot_be_is_refused_and_nothing_made(name, words, place):
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError, match=words) as error:
        outputs.checked(f"{place}/{name}", ENDINGS)
    assert "\n" not in str(error.value)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("name", ["", " ", "gs://bucket/a.png", "/proc/a.png", "/dev/null/a.png", "/"])
def test_no_file_of_this_machine(name):
    with pytest.raises(InputError, match=r"--json"):
        outputs.checked(name, ENDINGS, flag="--json")


def test_overwriting_is_for_files_and_for_folders_of_pictures(place):
    for name in ("old.png", "dangling.png", "pictures", "empty", "new/below/a.NPZ", "new/folder"):
        assert outputs.checked(f"{place}/{name}", ENDINGS, overwrite=True) == place / name
    with pytest.raises(InputError, match=r"holds more than pictures \('thesis.tex'\)"):
        outputs.checked(str(place / "home"), ENDINGS, overwrite=True)
    with pytest.raises(InputError, match="is a folder"):
        outputs.checked(str(place / "folder.png"), ENDINGS, overwrite=True)
    assert not (place / "new").exists()


@pytest.mark.parametrize(("ending", "kind"), [(".png", "PNG"), (".jpg", "JPEG"), (".JPEG", "JPEG"), (".webp", "WEBP")])
def test_pictures_are_of_the_format_that_they_say(ending, kind, tmp_path):
    path = tmp_path / "new" / f"a{ending}"
    outputs.write_picture(path, PIXELS)
    with Image.open(path) as image:
        assert (image.format, image.size) == (kind, (9, 6))
        if kind != "JPEG":
            assert np.array_equal(np.asarray(image), PIXELS)
    assert list(path.parent.iterdir()) == [path]


def test_a_picture_that_a_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"webp has no pictures of 17000x2: choose .png, or fewer images"):
        outputs.write_picture(tmp_path / "a.webp", np.zeros((2, 17_000, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_arrays_and_folders(tmp_path):
    outputs.write_arrays(tmp_path / "a.npz", arr_0=PIXELS[None], label=np.array([3]))
    with np.load(tmp_path / "a.npz") as stored:
        assert np.array_equal(stored["arr_0"], PIXELS[None])
        assert stored["label"].tolist() == [3]
    for name in ("0.png", "1.png"):
        outputs.write_folder(tmp_path / "many", {name: PIXELS})
        assert os.listdir(tmp_path / "many") == [name]
        assert np.array_equal(np.asarray(Image.open(tmp_path / "many" / name)), PIXELS)
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "many"]


@pytest.mark.parametrize("write", [lambda p: outputs.write_arrays(p, a=PIXELS), lambda p: outputs.write_text(p, "a")])
def test_a_full_disk_is_one_line_and_leaves_nothing(write, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "old").write_text("as it was")
    with pytest.raises(RunError, match=r"old could not be written \(No space left on device\): nothing of it is left"):
        write(pathlib.Path(tmp_path / "old"))
    assert (tmp_path / "old").read_text() == "as it was"
    assert os.listdir(tmp_path) == ["old"]
