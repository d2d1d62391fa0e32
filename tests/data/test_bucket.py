"""Sets in a bucket, which a machine copies once."""

import collections
import pathlib
import shutil
import types

import numpy as np
import pytest

from rqjax.data import bucket as bucket_module
from rqjax.data.bucket import at_hand
from rqjax.data.config import DataConfig, open_source
from rqjax.data.pipeline import rows_of_batches
from rqjax.data.prepare import prepare, splits_of
from rqjax.data.records import MANIFEST, Manifest
from rqjax.errors import InputError, RunError
from tests.buckets import bucket_in

SET = "gs://bucket/set"
SHARDS = 6


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """The folder behind gs://bucket/set, and what was opened of it."""
    source = DataConfig(name="synthetic", count=20, classes=2, size=8, batch=4)
    prepare(splits_of(source), tmp_path / "set", per_shard=10, threads=1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with bucket_in(tmp_path / "cloud", monkeypatch) as (store, opened):
        shutil.copytree(tmp_path / "set", tmp_path / "cloud" / "bucket" / "set")
        yield types.SimpleNamespace(
            folder=tmp_path / "cloud" / "bucket" / "set", here=tmp_path / "set", opened=opened, store=store
        )


def config(path, **fields) -> DataConfig:
    return DataConfig(name="folder", path=str(path), size=8, batch=4, threads=1, **fields)


def read(cloud) -> collections.Counter:
    """How often each file of the bucket was opened since it was last asked."""
    found = collections.Counter(name for _, name in cloud.opened)
    cloud.opened.clear()
    return found


def test_a_set_is_copied_once_and_gives_the_batches_of_a_local_one(cloud, tmp_path, capsys):
    def batches(path, **fields):
        with rows_of_batches(config(path, **fields), range(4)) as stream:
            return [next(stream) for _ in range(3)]

    ours, theirs = batches(SET), batches(cloud.here)
    for one, other in zip(ours, theirs, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in other)
    assert read(cloud) == {file.name: 1 for file in cloud.here.iterdir()}
    copy = pathlib.Path(at_hand(SET))
    assert copy.parent == tmp_path / "cache" / "rqjax" / "data"
    assert read(cloud) == {MANIFEST: 1}
    said = capsys.readouterr().out
    assert f"data: copying {SHARDS} files of {SET}, 0.00 GiB, to {copy}\ndata: copied in" in said
    assert said.count("copying") == 1
    assert pathlib.Path(at_hand(SET, str(tmp_path / "disk"))).parent == tmp_path / "disk"
    assert at_hand(str(cloud.here)) == str(cloud.here)
    assert at_hand("") == ""


def test_what_was_whole_before_an_end_is_not_copied_again(cloud, monkeypatch):
    shards = [shard.file for shard in Manifest.read(cloud.here).files]
    opening = cloud.store._open

    def failing(self, path, mode="rb", **options):
        if path.endswith(shards[2]):
            raise ConnectionError("the network is gone")
        return opening(self, path, mode, **options)

    monkeypatch.setattr(bucket_module, "AT_ONCE", 1)
    monkeypatch.setattr(cloud.store, "_open", failing)
    expected = rf"{SET}/{shards[2]} cannot be read \(ConnectionError: the network is gone\).*the same command goes on"
    with pytest.raises(RunError, match=expected):
        open_source(config(SET))
    monkeypatch.setattr(cloud.store, "_open", opening)
    read(cloud)
    assert len(open_source(config(SET, split="all"))) == 60
    found = read(cloud)  # those behind the one that failed may have been on their way
    assert [found[name] for name in (MANIFEST, *shards[:3])] == [1, 0, 0, 1]


def test_another_file_than_the_manifest_says_is_refused_and_leaves_nothing(cloud, tmp_path):
    shard = min(cloud.folder.glob("*.arrayrecord"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(RunError, match=rf"{shard.name} is not the file that {MANIFEST} tells of .*copy the set there"):
        open_source(config(SET))
    copy = next((tmp_path / "cache" / "rqjax" / "data").iterdir())
    assert not list(copy.glob(f"*{shard.name}*"))
    assert not (copy / MANIFEST).exists()
    shutil.copy(cloud.here / shard.name, shard)
    assert len(open_source(config(SET))) == 20


def test_what_cannot_be_copied_is_a_line(cloud, monkeypatch, tmp_path):
    with pytest.raises(InputError, match=rf"data.path gs://bucket/none holds no {MANIFEST}: expected a set of launch"):
        open_source(config("gs://bucket/none"))
    with pytest.raises(InputError, match=r"data.name=tfds: only sets of launch/prepare.py .* are read from a bucket"):
        open_source(DataConfig(name="tfds", path=SET, size=8, batch=4))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=rf"{SET} could not be copied to {tmp_path}/file/\w+ \(Not a directory\)"):
        open_source(config(SET, cache=str(tmp_path / "file")))
    usage = types.SimpleNamespace(free=1000)
    monkeypatch.setattr(bucket_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        InputError, match=r"needs 0.00 GiB in .*, and the disk has 0.00 left: name a folder of a larger"
    ):
        open_source(config(SET))
    (cloud.folder / MANIFEST).write_text("{}")
    with pytest.raises(InputError, match=rf"{SET}/{MANIFEST} is damaged"):
        open_source(config(SET))
