import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rqjax.data.pipeline import DataConfig, examples
from rqjax.data.sources import FASHION_MNIST, Arrays, Folder, Synthetic, fashion_mnist
from rqjax.data.walk import skipped
from rqjax.errors import InputError


def image(path: pathlib.Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value,) * 3).save(path)


def names(source) -> list[str]:
    return [pathlib.Path(source.name(i)).name for i in range(len(source))]


def test_the_embedded_set_holds_out_the_last_hundred_of_each_class():
    train, test, everything = (fashion_mnist(split) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(everything)) == (9000, 1000, 10000)
    assert np.bincount(test.label).tolist() == [100] * 10
    assert train.classes == FASHION_MNIST
    keys = [{x.tobytes() for x in source.image} for source in (train, test, everything)]
    assert keys[0].isdisjoint(keys[1])
    assert keys[0] | keys[1] == keys[2]
    of_class_3 = everything.image[everything.label == 3]
    assert np.array_equal(test.image[test.label == 3], of_class_3[900:])


def test_synthetic_images_depend_on_the_index_alone_and_look_like_their_class():
    a, b = Synthetic(40, 4, 24, "train"), Synthetic(40, 4, 24, "train")
    assert np.array_equal(a[17]["image"], b[17]["image"])
    assert (a[17]["label"], len(a.classes), a[17]["image"].shape) == (1, 4, (24, 24, 3))
    x = np.stack([a[i]["image"] for i in range(40)]).astype(float).reshape(40, -1)
    distance = ((x[:, None] - x[None]) ** 2).sum(-1) + 1e9 * np.eye(40)
    assert np.array_equal(distance.argmin(1) % 4, np.arange(40) % 4)
    assert not np.array_equal(a[5]["image"], Synthetic(40, 4, 24, "test")[5]["image"])


def test_arrays_take_grayscale_and_colour():
    for shape in ((2, 8, 8), (2, 8, 8, 1), (2, 8, 8, 3)):
        source = Arrays(np.zeros(shape, np.uint8), np.array([0, 1]), ("a", "b"), "made")
        assert source.name(1) == "made[1]"


def test_a_flat_folder_has_one_class_and_ignores_what_is_no_image(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.webp", "d.bmp", "e.jpeg"):
        image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._a.jpg").write_bytes(b"of another system")
    image(tmp_path / ".cache" / "x.png")
    source = Folder(str(tmp_path), "train", 0.0)
    assert names(source) == ["a.jpg", "b.PNG", "c.webp", "d.bmp", "e.jpeg"]
    assert [source[i]["label"] for i in range(5)] == [0] * 5
    assert len(source.classes) == 1
    assert Image.open(io.BytesIO(source[0]["image"])).size == (8, 8)


def test_class_folders_become_labels_in_sorted_order(tmp_path):
    for name in ("zebra/1.png", "ant/2.png", "ant/young/3.png", "bee/4.png"):
        image(tmp_path / name)
    source = Folder(str(tmp_path), "all", 0.5)
    assert source.classes == ("ant", "bee", "zebra")
    assert [(name, source[i]["label"]) for i, name in enumerate(names(source))] == [
        ("2.png", 0),
        ("3.png", 0),
        ("4.png", 1),
        ("1.png", 2),
    ]


def test_an_empty_class_folder_is_named(tmp_path):
    """It would shift the ids of all classes behind it, the day that it has images."""
    for name in ("train/a/1.png", "train/c/2.png", "val/a/3.png"):
        image(tmp_path / name)
    for name in ("train/b", "train/__pycache__", "train/.hidden"):
        (tmp_path / name).mkdir()
    for split in ("train", "test"):
        with pytest.raises(
            InputError, match=r"train has class folders without images: b: fill them, or take them away"
        ):
            Folder(str(tmp_path), split, 0.5)


def test_split_folders_share_the_classes_of_train(tmp_path):
    for name in ("train/a/1.png", "train/b/2.png", "train/c/3.png", "val/b/4.png", "val/c/5.png"):
        image(tmp_path / name)
    for split in ("test", "validation"):
        held_out = Folder(str(tmp_path), split, 0.9)
        assert held_out.classes == ("a", "b", "c")
        assert [held_out[i]["label"] for i in range(2)] == [1, 2]
    assert names(Folder(str(tmp_path), "train", 0.9)) == ["1.png", "2.png", "3.png"]
    assert len(Folder(str(tmp_path), "all", 0.9)) == 5
    image(tmp_path / "val" / "d" / "6.png")
    with pytest.raises(InputError, match=r"\['d'\].*\['a', 'b', 'c'\]"):
        Folder(str(tmp_path), "test", 0.9)


def test_flat_split_folders(tmp_path):
    for name in ("train/1.png", "test/2.png"):
        image(tmp_path / name)
    assert names(Folder(str(tmp_path), "test", 0.0)) == ["2.png"]
    assert Folder(str(tmp_path), "test", 0.0)[0]["label"] == 0


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train/1.png", "boat/2.png"):
        image(tmp_path / name)
    assert Folder(str(tmp_path), "train", 0.0).classes == ("boat", "train")


def test_the_hold_out_is_disjoint_complete_and_stays_when_files_come(tmp_path):
    for i in range(200):
        image(tmp_path / f"{i}.png")
    train, test = (set(names(Folder(str(tmp_path), split, 0.2))) for split in ("train", "test"))
    assert train.isdisjoint(test)
    assert len(train | test) == 200
    assert 20 < len(test) < 65
    for i in range(200, 260):
        image(tmp_path / f"{i}.png")
    assert {name for name in names(Folder(str(tmp_path), "test", 0.2)) if int(name[:-4]) < 200} == test


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        Folder(str(tmp_path / "missing"), "train", 0.0)
    with pytest.raises(InputError, match=r"no images for split 'train'.*\.jpg"):
        Folder(str(tmp_path), "train", 0.0)
    image(tmp_path / "1.png")
    with pytest.raises(InputError, match="holdout"):
        Folder(str(tmp_path), "test", 0.0)
    image(tmp_path / "cat" / "2.png")
    with pytest.raises(InputError, match=r"images \(1\.png\) and class folders \(cat\)"):
        Folder(str(tmp_path), "train", 0.0)


def test_folders_are_read_once_and_what_is_no_regular_image_is_named(tmp_path):
    image(tmp_path / "cat" / "1.png")
    image(tmp_path / "dog" / "2.png")
    for link in ("a", "b"):  # to itself: 2**40 ways to the same files, for who follows them all
        (tmp_path / "cat" / link).symlink_to(tmp_path)
    (tmp_path / "ant").symlink_to(tmp_path / "dog")  # a class by another name: the folder proper is taken
    (tmp_path / "cat" / "l1.png").symlink_to("l2.png")
    (tmp_path / "cat" / "l2.png").symlink_to("l1.png")
    (tmp_path / "cat" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "cat" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "cat" / "good.png").symlink_to("1.png")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    for name in ("x.tif", "y.TIF", "z.gif", "notes.txt"):
        (tmp_path / "dog" / name).write_bytes(b"x")
    source = Folder(str(tmp_path), "train", 0.0)
    assert source.classes == ("cat", "dog")
    assert names(source) == ["1.png", "good.png", "2.png"]
    found = {pathlib.Path(name).relative_to(tmp_path).as_posix(): reason for name, reason in source.left_out.items()}
    again, many = "leads to a folder that is read already", "Too many levels of symbolic links"
    assert found == {
        "ant": again,
        "cat/a": again,
        "cat/b": again,
        "cat/device.png": "is a device, expected a regular file",
        "cat/gone.png": "No such file or directory",
        "cat/l1.png": many,
        "cat/l2.png": many,
        "dog": "1 .gif, 2 .tif not read, expected .jpg .jpeg .png .webp .bmp",
        "dog/pipe.png": "is a pipe, expected a regular file",
    }
    os.unlink(source.paths[0])
    os.mkfifo(source.paths[0])  # what became a pipe since is not waited for
    with pytest.raises(ValueError, match="a pipe, expected a regular file"):
        source[0]


def test_what_was_skipped_is_named_and_counted_in_a_bounded_number_of_lines():
    assert skipped({}) == []
    assert skipped({"a\x1b[2J": "no\nimage"}) == [r"skipped a\x1b[2J: no\nimage"]
    assert skipped({str(i): "x" for i in range(99)}, 2) == ["skipped 0: x", "skipped 1: x", "skipped 99 in all"]


# --- prepared data sets --------------------------------------------------------------------------------------------

PREPARE = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["cat", "dog"])
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": label}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, downloads):
        return {"train": self._generate_examples(10), "test": self._generate_examples(4)}

    def _generate_examples(self, n):
        for i in range(n):
            file = io.BytesIO()
            Image.fromarray(np.full((20, 24, 3), 20 * i, np.uint8)).save(file, "png")
            file.seek(0)
            yield i, {"image": file, "label": i % 2}

Tiny(data_dir=sys.argv[1], file_format=sys.argv[2]).download_and_prepare()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> pathlib.Path:
    """A data set that TFDS itself wrote, in a process of its own since it registers the builder."""
    folder = tmp_path_factory.mktemp("tfds")
    command = [sys.executable, "-c", PREPARE, str(folder), "array_record"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


def tfds(**changes) -> DataConfig:
    return DataConfig(**{"name": "tfds", "size": 16, "batch": 4, "threads": 1, **changes})


def test_a_prepared_set_is_read_without_tensorflow(prepared):
    for where in ({"dataset": "tiny", "path": str(prepared)}, {"path": str(prepared / "tiny" / "1.0.0")}):
        stream = examples(tfds(**where))
        found = list(stream)
        pixel = np.concatenate([x["image"] for x in found])[:, 0, 0, 0]
        assert sorted(pixel.tolist()) == [20 * i for i in range(10)]
        assert np.array_equal(np.concatenate([x["label"] for x in found]), pixel // 20 % 2)
        assert found[0]["image"].shape == (4, 16, 16, 3)
        assert stream.source.classes == ("cat", "dog")
        assert stream.source.name(3) == "tiny/train[3]"
    assert "tensorflow" not in sys.modules


def test_splits_of_a_prepared_set(prepared):
    assert len(examples(tfds(dataset="tiny", path=str(prepared), split="test")).source) == 4
    assert len(examples(tfds(dataset="tiny", path=str(prepared), split="train[:50%]")).source) == 5
    for split in ("validation", "train[", "train[:0%]"):
        with pytest.raises(InputError, match=r"split"):
            examples(tfds(dataset="tiny", path=str(prepared), split=split))


def test_what_is_not_prepared_says_how_to(prepared, tmp_path):
    with pytest.raises(InputError, match="array_record"):
        examples(tfds(dataset="huge", path=str(prepared)))
    with pytest.raises(InputError, match="is not a folder"):
        examples(tfds(dataset="tiny", path=str(tmp_path / "missing")))
    with pytest.raises(InputError, match=r"dataset_info\.json"):
        examples(tfds(path=str(prepared)))


def test_another_format_says_which(prepared, tmp_path):
    folder = tmp_path / "1.0.0"
    folder.mkdir()
    for file in (prepared / "tiny" / "1.0.0").iterdir():
        content = file.read_bytes()
        if file.name == "dataset_info.json":
            content = content.replace(b"array_record", b"tfrecord")
        (folder / file.name).write_bytes(content)
    with pytest.raises(InputError, match=r"tfrecord, expected array_record: prepare it"):
        examples(tfds(path=str(folder)))
