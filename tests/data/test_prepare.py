import dataclasses
import importlib.util
import io
import itertools
import json
import os
import pathlib
import pickle
import shutil
import struct
import tarfile

import lmdb
import numpy as np
import pytest
from PIL import Image

from rqjax.data import augment
from rqjax.data import prepare as prepare_module
from rqjax.data.config import DataConfig, open_source
from rqjax.data.pipeline import examples, rows_of_batches
from rqjax.data.prepare import prepare, splits_of
from rqjax.data.records import MANIFEST, Manifest, Records, pack, unpack
from rqjax.errors import InputError, RunError


def encoded(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (value, 255 - value, 0)).save(out, "png")
    return out.getvalue()


def write(path: pathlib.Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    """12 images of two classes, one of which is damaged."""
    for k in range(12):
        write(tmp_path / "from" / ("ant" if k % 2 else "bee") / f"{k:02}.png", encoded(k))
    write(tmp_path / "from" / "ant" / "05.png", b"no image")
    return tmp_path / "from"


@pytest.fixture
def tars(tmp_path):
    """Two tars of five examples each, with captions and classes."""
    for t in range(2):
        (tmp_path / "tars").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "tars" / f"{t}.tar", "w") as tar:
            for k in range(5):
                parts = {"png": encoded(5 * t + k), "txt": f"number {5 * t + k}".encode(), "cls": str(k % 3).encode()}
                for ending, content in parts.items():
                    member = tarfile.TarInfo(f"./{k:04}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return tmp_path / "tars"


@pytest.fixture
def bases(tmp_path):
    """LSUN's two data bases of a category, ten images in the one and two in the other."""
    for split, count in (("train", 10), ("val", 2)):
        path = tmp_path / "lsun" / f"church_outdoor_{split}_lmdb"
        path.mkdir(parents=True)
        with lmdb.open(str(path), map_size=2**24) as base, base.begin(write=True) as writing:
            for k in range(count):
                writing.put(f"{k:040x}".encode(), encoded(k))
    return tmp_path / "lsun"


@pytest.fixture
def captions(tmp_path):
    lines = [f"pictures/{k}.png\tnumber {k}".encode() for k in range(10)]
    for k in range(10):
        write(tmp_path / "list" / "pictures" / f"{k}.png", encoded(k))
    write(
        tmp_path / "list" / "list.tsv",
        b"\n".join([*lines, b"pictures/0.png\t\xff", b"no tab", b"pictures/1.png\t", b""]),
    )
    return tmp_path / "list" / "list.tsv"


def config(path: pathlib.Path, name: str = "folder", **more) -> DataConfig:
    return DataConfig(name=name, path=str(path), **{"size": 8, "batch": 4, "threads": 2, "holdout": 0.0} | more)


def prepared(source: DataConfig, out: pathlib.Path, per_shard: int = 3) -> pathlib.Path:
    prepare(splits_of(source), out, per_shard=per_shard, threads=2)
    return out


def contents(source) -> list[tuple]:
    records = [source[i] for i in range(len(source))]
    return [(record["image"], record["label"], record.get("caption")) for record in records]


@pytest.mark.parametrize("name", ["captions", "tars", "lmdb"])
def test_a_prepared_set_holds_what_its_source_does(name, request, tmp_path):
    described = config(request.getfixturevalue("bases" if name == "lmdb" else name), name)
    source = open_source(described)
    out = prepared(described, tmp_path / "out")
    again = open_source(config(out, name))
    assert isinstance(again, Records)
    assert contents(again) == contents(source)
    assert (again.classes, again.captioned) == (source.classes, name != "lmdb")
    assert len({shard.file for shard in again.shards}) == 4
    assert Manifest.read(out).damaged(out) == {}


def test_what_cannot_be_read_is_listed_and_left_out(folder, tmp_path):
    out = prepared(config(folder), tmp_path / "out")
    manifest = Manifest.read(out)
    assert manifest.count("train") == 11
    assert list(manifest.left_out) == [str(folder / "ant" / "05.png")]
    source = open_source(config(out))
    pairs = {(Image.open(io.BytesIO(image)).getpixel((0, 0))[0], label) for image, label, _ in contents(source)}
    assert pairs == {(k, (k + 1) % 2) for k in range(12) if k != 5}
    assert source.classes == ("ant", "bee")


def test_splits_are_those_of_the_folder_or_a_share(folder, tmp_path):
    (folder / "ant" / "05.png").unlink()
    out = prepared(config(folder, holdout=0.4), tmp_path / "share")
    train, held = (open_source(config(out, split=split)) for split in ("train", "test"))
    assert (len(train) + len(held), len(open_source(config(out, split="all")))) == (11, 11)
    assert len(held) == len(open_source(config(folder, split="test", holdout=0.4))) > 0
    for split in ("train", "val"):
        write(tmp_path / "two" / split / "ant" / "1.png", encoded(1))
    assert list(Manifest.read(prepared(config(tmp_path / "two"), tmp_path / "named")).splits) == ["train", "validation"]


def test_arrays_in_memory_become_png(tmp_path):
    source = DataConfig(name="synthetic", count=5, classes=2, size=8, batch=1)
    out = prepared(source, tmp_path / "out")
    first, again = (next(examples(data)) for data in (source, config(out, batch=1)))
    np.testing.assert_array_equal(first["image"], again["image"])


def test_images_are_scaled_once_if_asked_to(tmp_path):
    y, x = np.mgrid[:120, :200] / 200
    photograph = Image.fromarray(
        np.uint8(127 + 120 * np.stack([np.sin(7 * x + k) * np.cos(5 * y) for k in range(3)], 2))
    )
    (tmp_path / "from").mkdir()
    photograph.save(tmp_path / "from" / "large.png")
    write(tmp_path / "from" / "small.png", encoded(7, (20, 30)))
    data = config(tmp_path / "from")
    prepare(splits_of(data), tmp_path / "out", per_shard=9, threads=1, side=60)
    large, small = (record[0] for record in contents(open_source(config(tmp_path / "out"))))
    assert small == (tmp_path / "from" / "small.png").read_bytes()
    assert Image.open(io.BytesIO(large)).format == "JPEG"
    scaled = np.asarray(photograph.resize((100, 60), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(augment.pixels(large, 60, "bilinear") - scaled).mean() < 1
    write(tmp_path / "begun" / "plan.json", b'{"per_shard": 9, "side": 30}')
    with pytest.raises(InputError, match=r"beginning of another set \(.*side.* differ\)"):
        prepare(splits_of(data), tmp_path / "begun", per_shard=9, threads=1, side=60)


def test_a_start_that_was_cut_off_goes_on(folder, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", prepared(config(folder), tmp_path / "whole")
    record, read = prepare_module._record, itertools.count()

    def failing(source, index, side):
        if next(read) == 7:
            raise KeyboardInterrupt
        return record(source, index, side)

    monkeypatch.setattr(prepare_module, "_record", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(splits_of(config(folder)), out, per_shard=3, threads=1)
    assert not (out / MANIFEST).exists()
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.arrayrecord")}
    assert 2 <= len(done) < 4
    seen: list[int] = []
    prepare(splits_of(config(folder)), out, per_shard=3, threads=1, seen=seen.append)
    assert sum(seen) == 12
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert (out / MANIFEST).read_text() == (whole / MANIFEST).read_text()


def test_nothing_is_written_over(folder, tmp_path):
    out = prepared(config(folder), tmp_path / "out")
    with pytest.raises(InputError, match="holds a prepared set already"):
        prepared(config(folder), out)
    write(tmp_path / "other" / "notes.txt", b"mine")
    with pytest.raises(InputError, match=r"is not empty \('notes.txt'\)"):
        prepared(config(folder), tmp_path / "other")
    begun = tmp_path / "begun"
    write(begun / "plan.json", b'{"per_shard": 3}')
    with pytest.raises(InputError, match="beginning of another set"):
        prepared(config(folder), begun)
    assert [path.name for path in begun.iterdir()] == ["plan.json"]


def test_damage_is_one_line(folder, tmp_path):
    out = prepared(config(folder), tmp_path / "out")
    shard = next(out.glob("*.arrayrecord"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(InputError, match=r"has [\d,]+ bytes, expected .* by dataset.json: copy the set again"):
        open_source(config(out))
    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert list(Manifest.read(out).damaged(out)) == [shard.name]
    shard.unlink()
    with pytest.raises(InputError, match="is missing"):
        open_source(config(out))
    shard.write_bytes(whole)
    stored = json.loads((out / MANIFEST).read_text())
    entry = next(entry for entry in stored["splits"]["train"] if entry["file"] == shard.name)
    entry["count"] += 1
    (out / MANIFEST).write_text(json.dumps(stored))
    with pytest.raises(RunError, match=r"has \d+ records, expected \d+"):
        next(examples(config(out, batch=16)))
    entry["file"] = "../other"
    (out / MANIFEST).write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"dataset.json is damaged .*'../other'"):
        open_source(config(out))
    (out / MANIFEST).write_text("{")
    with pytest.raises(InputError, match=r"dataset.json is damaged"):
        open_source(config(out))


def test_a_record_keeps_its_fields_and_damage_is_no_image():
    assert unpack(pack(b"image", {"label": 3, "caption": "é", "name": "x"})) == {
        "image": b"image",
        "label": 3,
        "caption": "é",
    }
    for damaged in (b"", b"\xff\xff\xff\xff{}", pack(b"", {})[:-1]):
        with pytest.raises((ValueError, struct.error)):
            unpack(damaged)


@pytest.mark.parametrize("name", ["folder", "captions", "tars", "lmdb", "records"])
def test_hosts_and_resumed_runs_see_the_same_batches(name, request, tmp_path):
    kind = "tars" if name == "records" else name
    data = config(request.getfixturevalue("bases" if kind == "lmdb" else kind), kind)
    if name == "records":
        data = config(prepared(data, tmp_path / "out"), "tars")
    data.crop, data.resize, data.flip = "random", 12, True

    def some(rows: list[int], start: int = 0):
        with rows_of_batches(data, rows, start) as stream:
            return [next(stream) for _ in range(4 - start)]

    whole = some([0, 1, 2, 3])
    for rows in ([0, 1], [2, 3], [3]):
        for part, batch in zip(some(rows), whole, strict=True):
            assert part["image"].tobytes() == batch["image"][rows].tobytes()
            assert part["label"].tobytes() == batch["label"][rows].tobytes()
    assert all(
        a["image"].tobytes() == b["image"].tobytes() for a, b in zip(some([0, 1, 2, 3], 2), whole[2:], strict=True)
    )


def test_readers_go_to_worker_processes(tars, bases, tmp_path):
    for data in (config(prepared(config(tars, "tars"), tmp_path / "out")), config(bases, "lmdb")):
        source = open_source(data)
        assert source[0] == pickle.loads(pickle.dumps(source))[0]


def test_lists_say_which_lines_are_wrong(captions):
    source = open_source(config(captions, "captions"))
    assert len(source) == 11
    assert source[10]["caption"] == ""
    assert {name.rpartition("line ")[2]: reason for name, reason in source.left_out.items()} == {
        "11": "is no UTF-8",
        "12": "has no path before a tab, expected path<TAB>caption",
    }


def test_lists_of_json_and_a_list_for_each_split(tmp_path):
    lines = [{"image": "a.png", "caption": ["one", "two"]}, {"image": "b.png"}, {"image": "c.png", "caption": "\ud800"}]
    write(tmp_path / "train.jsonl", "\n".join(map(json.dumps, lines)).encode() + b"\n[]\n{\n" + b"[" * 10**5)
    write(tmp_path / "val_list.txt", b"a.png\tthree")
    write(tmp_path / "a.png", encoded(1))
    train = open_source(config(tmp_path, "captions"))
    assert (len(train), train[0]["caption"], len(train.left_out)) == (1, "one", 5)
    assert open_source(config(tmp_path, "captions", split="validation"))[0]["caption"] == "three"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no list for split 'train': expected train.tsv"):
        open_source(config(tmp_path / "empty", "captions"))


def test_tars_that_cannot_be_read_say_so(tars):
    whole = (tars / "1.tar").read_bytes()
    for cut in (0, 700, 1536, 3000):
        (tars / "1.tar").write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"1.tar cannot be read .* damaged or cut short"):
            open_source(config(tars, "tars"))
    with tarfile.open(tars / "1.tar", "w") as tar:
        for name, content in {"a.png": encoded(1), "a.cls": b"-1", "a.txt": b"x"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(InputError, match=r"the class of a is b'-1', expected a number"):
        open_source(config(tars, "tars"))
    with tarfile.open(tars / "1.tar", "w") as tar:
        member = tarfile.TarInfo("a.png")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(InputError, match=r"1 examples have no caption and others do: 1.tar/a"):
        open_source(config(tars, "tars"))


def test_data_bases_of_lsun_have_splits_or_a_share(bases):
    assert [len(open_source(config(bases, "lmdb", split=split))) for split in ("train", "test", "all")] == [10, 2, 12]
    one = config(bases / "church_outdoor_train_lmdb", "lmdb", holdout=0.4)
    train, held = (open_source(dataclasses.replace(one, split=split)) for split in ("train", "test"))
    assert {*contents(train), *contents(held)} == {(encoded(k), 0, None) for k in range(10)}
    assert (len(train) + len(held), len(held) > 0) == (10, True)
    assert train.name(0).startswith(f"{one.path}/0000")
    shutil.rmtree(bases / "church_outdoor_val_lmdb")
    with pytest.raises(InputError, match=r"no data base for split 'test': there are church_outdoor_train_lmdb"):
        open_source(config(bases, "lmdb", split="test"))


def test_data_bases_that_cannot_be_read_say_so(bases, monkeypatch):
    """One that is cut short would end the process where a page of it is missing."""
    folder = bases / "church_outdoor_val_lmdb"
    data = config(folder, "lmdb")
    whole = (folder / "data.mdb").read_bytes()
    for cut, reason in ((0, "cannot be read"), (3000, "cannot be read"), (8192, "it is cut short")):
        (folder / "data.mdb").write_bytes(whole[:cut])
        with pytest.raises(InputError, match=rf"data.mdb .*{reason}.*, download it again"):
            open_source(data)
    (folder / "data.mdb").unlink()
    os.mkfifo(folder / "data.mdb")
    with pytest.raises(InputError, match=r"data.mdb is a pipe, expected a regular file"):
        open_source(data)
    (folder / "data.mdb").unlink()
    with pytest.raises(InputError, match=r"holds no data.mdb"):
        open_source(data)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"install rqjax\[lmdb\]"):
        open_source(data)


def test_wordnet_ids_have_readable_names(tmp_path):
    for name in ("n02012849", "n03126707", "n01440764"):
        write(tmp_path / "set" / "Data" / "train" / name / "1.png", encoded(1))
        write(tmp_path / "set" / "Data" / "val" / name / "2.png", encoded(1))
    data = config(tmp_path / "set" / "Data", synsets=True)
    assert open_source(data).classes == ("n01440764", "n02012849", "n03126707")
    words = b"n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707\tcrane, derrick\n"
    write(tmp_path / "set" / "LOC_synset_mapping.txt", words)
    assert open_source(data).classes == ("tench", "crane (n02012849)", "crane (n03126707)")
    assert [open_source(data)[i]["label"] for i in range(3)] == [0, 1, 2]
    assert open_source(config(tmp_path / "set" / "Data")).classes[0] == "n01440764"
    write(tmp_path / "set" / "LOC_synset_mapping.txt", words[:30])
    with pytest.raises(InputError, match=r"has no words for n02012849"):
        open_source(data)
