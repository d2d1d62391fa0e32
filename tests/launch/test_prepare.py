import pathlib
import runpy
import sys

import pytest
from PIL import Image

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


def run(monkeypatch, *words: object, script: str = "prepare") -> None:
    monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
    runpy.run_path(str(LAUNCH / f"{script}.py"), run_name="__main__")


def test_a_folder_becomes_a_set_and_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    for k in range(10):
        path = tmp_path / "from" / f"n0000000{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (k, k, k)).save(path)
    (tmp_path / "from" / "n00000000" / "bad.png").write_bytes(b"no image")
    (tmp_path / "words.txt").write_text("n00000000\tcat\nn00000001\tdog\n")
    flags = ("--images", tmp_path / "from", "--out", tmp_path / "out", "--holdout", 0.3, "--threads", 2)
    run(monkeypatch, *flags)
    said = capsys.readouterr().out
    assert "bad.png: UnidentifiedImageError" in said
    assert "in train" in said
    assert "in validation; classes: 2" in said
    assert '"cat"' in (tmp_path / "out" / "dataset.json").read_text()
    assert not list((tmp_path / "out").glob(".*"))
    for words in (flags, (*flags[:3], tmp_path / "other", "--per_shard", 0), ("--tars", tmp_path, *flags[2:])):
        with pytest.raises(SystemExit) as end:
            run(monkeypatch, *words)
        assert end.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_a_list_of_captions_becomes_a_set_and_a_vocabulary(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "train.tsv").write_text("a.png\ta red apple\na.png\ta green apple\n")
    (tmp_path / "val.tsv").write_text("a.png\tan apple pie\n")
    run(monkeypatch, "--captions", tmp_path, "--out", tmp_path / "set")
    assert "2 in train, 1 in validation" in capsys.readouterr().out
    for source in (tmp_path, tmp_path / "set"):
        out = tmp_path / f"words_{source.name}"
        run(monkeypatch, "--captions", source, "--size", 100, "--out", out, script="vocabulary")
        assert " tokens, " in capsys.readouterr().out
    first, second = (tmp_path / f"words_{name}" / "vocab.json" for name in (tmp_path.name, "set"))
    assert first.read_text() == second.read_text()
    assert "apple</w>" in first.read_text()
    assert "pie</w>" not in first.read_text()
    for words in (("--size", 100), ("--size", 1)):
        with pytest.raises(SystemExit) as end:
            run(monkeypatch, "--captions", tmp_path, *words, "--out", first.parent, script="vocabulary")
        assert end.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
