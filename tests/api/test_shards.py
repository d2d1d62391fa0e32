"""A folder of shards: what an end half-way leaves is gone on with, and the images are those of one go."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rqjax.api import shards
from rqjax.api.prior import draws_by_stream
from rqjax.api.shards import Shards
from rqjax.data.tars import Tars
from rqjax.errors import InputError
from rqjax.nets.guidance import Guidance
from tests.cut_off import cut_off_at

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shards, "IMAGES", 4)


def request_of(prior, count=3, seed=1):
    draws = draws_by_stream(prior.config.stage.model.streams, 1.0, 0, 1.0)
    return prior.request(None, None, count, seed, draws, Guidance())


def draw(prior, folder, request, overwrite=False, kind="npz"):
    said = []
    Shards.checked(f"{folder}/", prior, request, overwrite=overwrite, kind=kind).draw(prior, request, said.append)
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
    calls = cut_off_at(2, monkeypatch)
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


def test_tars_hold_the_same_images_and_go_on_too(residual, tmp_path, monkeypatch):
    request = request_of(residual, count=4)
    draw(residual, tmp_path / "arrays", request)
    draw(residual, tmp_path / "tars", request, kind="tar")
    images = np.concatenate([shard["arr_0"] for shard in contents(tmp_path / "arrays").values()])
    found = Tars(str(tmp_path / "tars"), "all", 0.0)
    assert [name.rpartition("/")[2] for name in map(found.name, range(12))] == [f"{i:07}" for i in range(12)]
    assert [found[i]["label"] for i in range(12)] == [0, 1, 2] * 4
    assert np.array_equal([np.asarray(Image.open(io.BytesIO(found[i]["image"]))) for i in range(12)], images)
    before = {path.name: path.read_bytes() for path in sorted((tmp_path / "tars").glob("*.tar"))}
    assert list(before) == ["shard_00000.tar", "shard_00001.tar", "shard_00002.tar"]
    (tmp_path / "tars" / "shard_00001.tar").unlink()
    assert draw(residual, tmp_path / "tars", request, kind="tar") == [
        f"{tmp_path}/tars/shard_00001.tar: 8 of 12 images"
    ]
    assert {path.name: path.read_bytes() for path in sorted((tmp_path / "tars").glob("*.tar"))} == before
    with pytest.raises(InputError, match=r"another request \(shards is None and was tar\)"):
        draw(residual, tmp_path / "tars", request)
    draw(residual, tmp_path / "tars", request, overwrite=True)
    assert not list((tmp_path / "tars").glob("*.tar"))
    with pytest.raises(InputError, match="shards is 'zip': expected one of npz, tar"):
        draw(residual, tmp_path / "tars", request, kind="zip")


def test_processes_share_a_folder_without_a_word(residual, tmp_path):
    """Each draws its own shards, in any order, and what one left undone the same share does later."""
    request = request_of(residual, 5)
    draw(residual, tmp_path / "alone", request)
    expected = {path.name: dict(np.load(path)) for path in (tmp_path / "alone").glob("shard_*")}
    assert len(expected) > 2
    for own in (1, 0, 1):
        shards = Shards.checked(f"{tmp_path}/shared/", residual, request, overwrite=False)
        shards.draw(residual, request, str, (own, 2))
        (tmp_path / "shared" / "shard_00001.npz").unlink(missing_ok=own == 0)
    shards.draw(residual, request, str, (1, 2))
    found = {path.name: dict(np.load(path)) for path in (tmp_path / "shared").glob("shard_*")}
    assert sorted(found) == sorted(expected)
    for name, arrays in expected.items():
        assert all(np.array_equal(found[name][key], arrays[key]) for key in arrays)
    before = (tmp_path / "shared" / "shard_00000.npz").stat().st_mtime_ns
    Shards.checked(f"{tmp_path}/shared/", residual, request, overwrite=True).draw(residual, request, str, (1, 2))
    assert (tmp_path / "shared" / "shard_00000.npz").stat().st_mtime_ns == before  # another's


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "tar"])
def test_a_killed_command_goes_on_to_the_same_files(folders, tmp_path, kind):
    """4,200 images, killed as a machine ends a process, once the second shard is there."""
    words = [sys.executable, "-m", "rqjax", "sample", "--prior", str(folders["rq"]), "--count=1400", f"--shards={kind}"]
    start = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "text": True}
    subprocess.run([*words, "--out=straight/"], check=True, capture_output=True, **start)
    with subprocess.Popen([*words, "--out=killed/"], stdout=subprocess.PIPE, **start) as process:
        while f"shard_00001.{kind}" not in (line := process.stdout.readline()):
            assert line, "it ended before"
        process.send_signal(signal.SIGKILL)
    left = sorted(path.name for path in (tmp_path / "killed").glob("shard_*"))
    assert 2 <= len(left) < 5
    subprocess.run([*words, "--out=killed/"], check=True, capture_output=True, **start)
    straight, killed = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("shard_*")} for name in ("straight", "killed")
    )
    assert sorted(straight) == [f"shard_{i:05}.{kind}" for i in range(5)]
    if kind == "tar":
        assert killed == straight
    else:  # a zip has the time in it
        for name in straight:
            arrays = [np.load(io.BytesIO(files[name])) for files in (straight, killed)]
            assert all(np.array_equal(arrays[0][key], arrays[1][key]) for key in ("arr_0", "label"))
