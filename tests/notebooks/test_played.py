"""Every notebook of launch/ from top to bottom on a CPU, as a reader runs it; `launch/local.sh notebooks-test`."""

import base64
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
PLAY = pathlib.Path(__file__).parent / "play.py"
pytestmark = [pytest.mark.slow, pytest.mark.notebook]


class Played:
    """What the cells of a notebook gave."""

    def __init__(self, path: pathlib.Path):
        book = json.loads(path.read_text())
        self.cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        self.outputs = [output for cell in self.cells for output in cell["outputs"]]

    def stream(self, name: str) -> str:
        """All that was printed."""
        return "".join("".join(x["text"]) for x in self.outputs if x["output_type"] == "stream" and x["name"] == name)

    def shown(self, kind: str) -> list[str]:
        """The contents of a kind that cells displayed."""
        return ["".join(x["data"][kind]) for x in self.outputs if kind in x.get("data", {})]

    def pictures(self) -> list[Image.Image]:
        return [Image.open(io.BytesIO(base64.b64decode(content))) for content in self.shown("image/png")]


def play(name: str, folder: pathlib.Path, python: str | pathlib.Path = sys.executable, **fields: object) -> Played:
    """Runs launch/NAME.ipynb by an interpreter, with these form fields. Fails with what a failing cell said."""
    words = [f"{field}={value!r}" for field, value in fields.items()]
    command = [python, PLAY, ROOT / "launch" / f"{name}.ipynb", folder, *words]
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # these tests have 8 devices
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    played = Played(folder / "played.ipynb")
    assert [cell["execution_count"] for cell in played.cells] == list(range(1, 1 + len(played.cells)))
    return played


def figures(text: str) -> dict[str, tuple[int, float]]:
    """The bits and the PSNR of levels, by name, as a filmstrip prints them; the last ones of a name."""
    return {name: (int(bits), float(psnr)) for name, bits, psnr in re.findall(r"(.*): (\d+) bits, ([\d.]+) dB", text)}


def test_sample_rq(tmp_path):
    played = play("sample_rq", tmp_path, SMALL=True)
    said = played.stream("stdout")
    assert played.stream("stderr") == ""
    assert said.startswith("CPU; Python 3.")
    # 4x4 positions, of which each depth costs log2(512) bits
    assert {name: bits for name, (bits, _) in figures(said).items()} == {f"depth {d}": 144 * d for d in (1, 2, 3, 4)}
    assert said.count("of the host") == 6  # two trainings, two draws, the filmstrip, the sweep
    assert "runs/rqtransformer, 30 steps: " in said
    assert len(played.pictures()) == 7
    assert all(picture.width > 200 for picture in played.pictures())
    assert [html.startswith('<img src="data:image/gif;base64,') for html in played.shown("text/html")] == [True]
    assert (tmp_path / "samples.png").is_file()


def test_sample_dq(tmp_path):
    played = play("sample_dq", tmp_path, SMALL=True)
    said = played.stream("stdout")
    assert played.stream("stderr") == ""
    found = figures(said)
    # 16 regions with log2(2) bits each; half have one code, the others four, of log2(256) bits
    assert {name: bits for name, (bits, _) in found.items()} == {"coarse": 16 + 8 * 8, "+ fine": 16 + 8 * 8 + 8 * 4 * 8}
    assert found["coarse"][1] < found["+ fine"][1]
    assert said.count("of the host") == 6
    assert len(played.pictures()) == 7
    assert [html.startswith('<img src="data:image/gif;base64,') for html in played.shown("text/html")] == [True]
    assert (tmp_path / "coarse_to_fine.gif").is_file()


def test_sample_text(tmp_path):
    played = play("sample_text", tmp_path, SMALL=True)
    said = played.stream("stdout")
    assert played.stream("stderr") == ""
    assert {name: bits for name, (bits, _) in figures(said).items()} == {f"depth {d}": 144 * d for d in (1, 2, 3, 4)}
    lists = {split: (tmp_path / "clothes" / f"{split}.tsv").read_text() for split in ("train", "validation")}
    assert f"{lists['train'].count('images/')} images to train on, {lists['validation'].count('images/')} held" in said
    assert "\ta red bag\n" in lists["validation"]
    assert "\ta red bag\n" not in lists["train"]
    assert "led by texts of up to 16 tokens; takes guidance" in said
    assert said.count("of the host") == 6  # two trainings, two draws, the filmstrip, the sweep
    assert len(played.pictures()) == 6
    assert [html.startswith('<img src="data:image/gif;base64,') for html in played.shown("text/html")] == [True]
    assert (tmp_path / "samples.png").is_file()


def test_convert(tmp_path):
    played = play("convert", tmp_path, SMALL=True)
    said = played.stream("stdout")
    assert played.stream("stderr") == ""
    assert "official/model.pt: 196 tensors" in said
    assert "back.pt: 196 of 196 tensors are equal, bit for bit" in said
    assert "from imported\n" in said
    assert said.count("licence of the weights: MIT") == 2  # of the folder and of the run directory
    assert len(played.pictures()) == 1
    assert (tmp_path / "imported.zip").is_file()


def test_train_tpu(tmp_path):
    played = play("train_tpu", tmp_path, SMALL=True, FIELDS="data.batch=16 save_every=20")
    said = played.stream("stdout")
    assert played.stream("stderr") == ""
    assert re.search(r"^mesh: (replica 1, )?data \d+, model \d+$", said, re.MULTILINE)
    assert "30 steps of 16 images of fashion_mnist" in said
    assert "resumed at step 30 of 40" in said
    assert len(played.pictures()) == 1
    [report] = played.shown("text/html")
    assert report.startswith('<iframe srcdoc="&lt;!doctype html')
    assert sum(1 for _ in (tmp_path / "runs" / "rqvae" / "metrics.jsonl").open()) >= 2
