"""From captions to a picture, by the commands of the README, with models of nothing."""

import pytest
from PIL import Image

import rqjax
from rqjax.data.vocabulary import learn

RESIDUAL = ("--config.stage.model.patch_size=4", "--config.stage.model.code_shape=4,4")
DYNAMIC = ("--config.stage.model.patch_size=2",)
SHORT = [f"--config.{words}" for words in ("steps=2", "log_every=1", "save_every=2", "data.batch=8")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "codes", "metric"), [("rq", RESIDUAL, "text_loss"), ("dq", DYNAMIC, "content_loss")]
)
def test_a_caption_becomes_a_picture(command, tmp_path, family, codes, metric):
    for k in range(8):
        Image.new("RGB", (16, 16), (30 * k, 0, 0)).save(tmp_path / f"{k}.png")
    (tmp_path / "train.tsv").write_text("".join(f"{k}.png\tred of {k}\n" for k in range(8)))
    words = tmp_path / "vocabulary"
    words.mkdir()
    for name, content in learn(["red of apples"] * 2, 200).files().items():
        (words / name).write_text(content)
    data = f"--config.data.path={tmp_path}"
    tokenizer = [
        *("--config.stage.model.resolution=16", "--config.stage.model.dim=32", *codes),
        *("--config.data.size=16", "--config.data.resize=16"),
    ]
    vae, prior = tmp_path / "vae", tmp_path / "prior"
    status, _, said = command("train", "--config", f"emoji:{family}vae", "--workdir", vae, data, *SHORT, *tokenizer)
    assert status == 0, said
    more = (f"--config.data.vocabulary={words}", f"--config.stage.tokenizer_path={vae}", "--config.stage.model.dim=32")
    status, out, said = command(
        "train", "--config", f"emoji:{family}transformer", "--workdir", prior, data, *SHORT, *more
    )
    assert status == 0, said
    assert metric in out
    ask = ("sample", "--prior", prior, "--text", "red of apples", "--text", "", "--count", 2, "--guidance", 2)
    status, out, said = command(*ask, "--out", tmp_path / "x.png")
    assert status == 0, said
    assert Image.open(tmp_path / "x.png").size[1] >= 32
    loaded = rqjax.load(prior)
    assert loaded.run.vocabulary is not None
    assert loaded.generate(texts=["red of apples"], count=2, progress=False).images.shape == (2, 16, 16, 3)
    status, _, said = command(*ask[:3], "--label", "1", "--out", tmp_path / "y.png")
    assert (status, "say it with --text" in said) == (2, True)
    exported = tmp_path / "folder"
    assert command("convert", "--to_safetensors", prior, "--out", exported)[0] == 0
    assert (exported / "vocabulary" / "vocab.json").read_text() == (words / "vocab.json").read_text()
