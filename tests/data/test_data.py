import os
import pathlib
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from rqjax.data.pipeline import DataConfig, batches, examples, open_source, rows_of_batches
from rqjax.errors import InputError
from rqjax.mesh import make_mesh


def config(**changes) -> DataConfig:
    given = {"name": "synthetic", "count": 50, "size": 8, "resize": 12, "crop": "random", "flip": True, "batch": 8}
    return DataConfig(**given | {"threads": 2, **changes})


def take(stream, n: int) -> list[dict]:
    with stream:
        return [next(stream) for _ in range(n)]


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# --- batches


def test_batch_has_the_promised_shape_types_and_placement():
    mesh = make_mesh()
    (batch,) = take(batches(config(), mesh), 1)
    assert set(batch) == {"image", "label"}
    assert batch["image"].shape == (8, 8, 8, 3)
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    assert batch["image"].sharding.is_equivalent_to(NamedSharding(mesh, P("data")), 4)
    assert 0 <= batch["label"].min() <= batch["label"].max() < 10
    assert np.ptp(np.asarray(batch["image"])) > 50


@pytest.mark.parametrize("start", [1, 6, 7, 20])  # an epoch is 6.25 batches
def test_batch_k_needs_no_history(start):
    straight = take(batches(config(), make_mesh()), start + 2)
    resumed = take(batches(config(), make_mesh(), start), 2)
    assert all(equal(a, b) for a, b in zip(straight[start:], resumed, strict=True))
    assert not equal(straight[0], straight[1])


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    shown = [x["index"] for x in take(rows_of_batches(config(), range(8)), 13)]
    first, second = np.concatenate(shown)[:50], np.concatenate(shown)[50:100]
    assert sorted(first) == sorted(second) == list(range(50))
    assert list(first) != list(second)
    plain = take(rows_of_batches(config(shuffle=False), range(8)), 1)[0]
    assert list(plain["index"]) == list(range(8))


def test_seeds_differ_and_threads_do_not():
    a, b, c = (take(rows_of_batches(config(**x), range(8)), 3) for x in ({}, {"threads": 0}, {"seed": 1}))
    assert all(map(equal, a, b))
    assert not any(map(equal, a, c))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_read_what_one_reads_in_the_same_order(hosts):
    whole = take(rows_of_batches(config(), range(8)), 9)
    share = 8 // hosts
    parts = [take(rows_of_batches(config(), range(h * share, (h + 1) * share)), 9) for h in range(hosts)]
    joined = [{name: np.concatenate([x[name] for x in step]) for name in step[0]} for step in zip(*parts, strict=True)]
    assert all(map(equal, whole, joined))
    scattered = take(rows_of_batches(config(), [0, 1, 4, 5]), 9)  # hosts of a torus don't hold neighbouring rows
    assert all(np.array_equal(a["image"][[0, 1, 4, 5]], b["image"]) for a, b in zip(whole, scattered, strict=True))


def test_meshes_hold_the_same_batch():
    meshes = [
        make_mesh(),
        make_mesh("2x4"),
        make_mesh(devices=jax.devices()[:1]),
        make_mesh(devices=jax.devices()[::-1]),
    ]
    first, *others = [take(batches(config(), mesh, 3), 2) for mesh in meshes]
    assert all(equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"batch=12 .* 8 parts"):
        batches(config(batch=12), make_mesh())


def test_crops_and_mirrors_vary_between_epochs():
    shown = take(rows_of_batches(config(count=1, batch=1, crop="random", resize=16), [0]), 40)
    distinct = {x["image"].tobytes() for x in shown}
    assert len(distinct) > 10


# --- examples


def test_examples_are_ordered_central_and_complete():
    stream = examples(config(), 20)
    found = list(stream)
    assert [len(x["label"]) for x in found] == [8, 8, 4]
    assert np.concatenate([x["index"] for x in found]).tolist() == list(range(20))
    source = open_source(config())
    assert np.array_equal(found[1]["image"][3], source[11]["image"][2:10, 2:10])
    assert sum(len(x["label"]) for x in examples(config())) == len(source) == 50


def test_the_embedded_images_are_scaled_to_the_crop():
    embedded = DataConfig(resize=32, size=32, batch=10, split="test")
    images = next(examples(embedded))["image"]
    assert images.shape == (10, 32, 32, 3)
    assert np.array_equal(images[..., 0], images[..., 2])
    raw = open_source(DataConfig(size=28, batch=1, split="test"))[4]["image"]
    expected = Image.fromarray(raw).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(images[4, ..., 1], np.asarray(expected))


# --- configuration and threads


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "mnist"}, "expected one of fashion_mnist"),
        ({"crop": "middle"}, "'middle'"),
        ({"filter": "nearest"}, "bilinear"),
        ({"on_corrupt": "ignore"}, "skip, stop"),
        ({"split": "dev"}, "train, test"),
        ({"size": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"seed": 2**32}, "less than"),
        ({"resize": 4}, "resize=4 is smaller than data.size=8"),
        ({"holdout": 1.0}, "holdout=1.0"),
        ({"min_scale": 0.0}, "min_scale=0.0"),
        ({"name": "folder"}, "without data.path"),
        ({"name": "tfds"}, "without data.dataset"),
        ({"name": "fashion_mnist", "path": "mine"}, "data.path=mine with data.name=fashion_mnist, .* no path"),
        ({"name": "synthetic", "path": "mine"}, "give data.name=folder"),
    ],
)
def test_values_that_cannot_be_used_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        open_source(config(**changes))


def test_a_closed_or_dropped_stream_lets_go_of_its_threads():
    before = set(threading.enumerate())
    closed, dropped = rows_of_batches(config(), range(8)), rows_of_batches(config(), range(8))
    next(closed), next(dropped)
    started = set(threading.enumerate()) - before
    assert started
    closed.close()
    assert list(closed) == []
    del dropped
    for thread in started:
        thread.join(30)
    assert not any(thread.is_alive() for thread in started)


PROGRAM = """
import hashlib, sys
from rqjax.data.pipeline import DataConfig, rows_of_batches
if __name__ == "__main__":
    workers = int(sys.argv[1])
    made = DataConfig(name="synthetic", size=8, resize=12, crop="random", batch=4, threads=1, workers=workers)
    stream = rows_of_batches(made, range(4), 3)
    print(hashlib.sha256(b"".join(next(stream)["image"].tobytes() for _ in range(3))).hexdigest())
"""


def run(tmp_path, workers: int) -> str:
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    command = [sys.executable, str(tmp_path / "program.py"), str(workers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert "Exception ignored" not in done.stderr
    return done.stdout


def test_a_program_that_leaves_its_stream_open_ends(tmp_path):
    assert len(run(tmp_path, 0).strip()) == 64


@pytest.mark.slow
def test_processes_make_the_same_batches(tmp_path):
    assert run(tmp_path, 2) == run(tmp_path, 0)
