"""A folder of shards: what an end half-way leaves is gone on with, and the images are those of one go."""

import json

import numpy as np
import pytest

from rqjax.api import shards
from rqjax.api.prior import draws_by_stream
from rqjax.api.shards import Shards
from rqjax.errors import InputError
from rqjax.nets.guidance import Guidance


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shards, "IMAGES", 4)


def request_of(prior, count=3, seed=1):
    draws = draws_by_stream(prior.config.stage.model.streams, 1.0, 0, 1.0)
    return prior.request(None, None, count, seed, draws, Guidance())


def draw(prior, folder, request, overwrite=False):
    said = []
    Shards.checked(f"{folder}/", prior, request, overwrite=overwrite).draw(prior, request, said.append)
    return said


def contents(folder):
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            found[path.name] = dict(arrays)
    return found


def test_an_end_half_way_changes_nothing(residual, tmp_path, monkeypatch):
    """Twelve images, four of each class."""
    straight, ended = tmp_path / "straight", tmp_path / "ended"
    request = request_of(residual, count=4)
    assert draw(residual, straight, request)[-1] == f"{straight}/shard_00002.npz: 12 of 12 images"
    whole = contents(straight)
    assert [len(shard["arr_0"]) for shard in whole.values()] == [4, 4, 4]
    assert np.concatenate([shard["label"] for shard in whole.values()]).tolist() == [0, 1, 2] * 4
    write, calls = shards.outputs.write_arrays, []

    def fails_at_the_second(path, **arrays):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(path, **arrays)

    monkeypatch.setattr(shards.outputs, "write_arrays", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        draw(residual, ended, request)
    assert list(contents(ended)) == ["shard_00000.npz"]
    draw(residual, ended, request)
    assert calls == ["shard_00000.npz", "shard_00001.npz", "shard_00001.npz", "shard_00002.npz"]
    for name, shard in contents(ended).items():
        assert all(np.array_equal(shard[key], whole[name][key]) for key in whole[name])
    assert draw(residual, ended, request) == []


def test_another_request_does_not_mix_with_the_first(residual, tmp_path):
    first = request_of(residual, count=1)
    draw(residual, tmp_path / "a", first)
    before = contents(tmp_path / "a")
    with pytest.raises(
        InputError, match=r"another request \(seed is 2 and was 1\): choose another folder, or pass --ov"
    ):
        draw(residual, tmp_path / "a", request_of(residual, count=1, seed=2))
    draw(residual, tmp_path / "a", request_of(residual, count=1, seed=2), overwrite=True)
    after = contents(tmp_path / "a")
    assert list(after) == list(before)
    assert not np.array_equal(after["shard_00000.npz"]["arr_0"], before["shard_00000.npz"]["arr_0"])
    (tmp_path / "a" / "request.json").write_text("{")
    with pytest.raises(InputError, match=r"request.json is damaged"):
        draw(residual, tmp_path / "a", first)


def test_folders_of_other_things_are_refused_and_left_alone(residual, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="choose another folder"):
            draw(residual, tmp_path / "a", request_of(residual), overwrite)
    (tmp_path / "b").write_text("a file")
    with pytest.raises(InputError, match="is a file"):
        draw(residual, tmp_path / "b", request_of(residual))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes.txt"]


def test_a_request_is_written_in_words(residual, tmp_path):
    draw(residual, tmp_path / "a", request_of(residual, count=1))
    said = json.loads((tmp_path / "a" / "request.json").read_text())
    assert said["labels"] == [0, 1, 2]
    assert said["prior"] == [str(residual.run.path), 0, "averaged weights"]
