"""`rqjax evaluate --prior` of a prior led by captions, with a small CLIP of no training."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rqjax.api import shards
from rqjax.data import DataConfig
from rqjax.evaluation import classifier
from rqjax.nets.clip import prepared, token_rows
from rqjax.run import words
from rqjax.run.config import Config, to_dict
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig
from rqjax.store import model_folder
from rqjax.store.safetensor_file import save_safetensors
from rqjax.torchfile import clip
from tests import small_rq
from tests.api.conftest import VOCABULARY, made
from tests.cut_off import cut_off_at
from tests.data.test_clip_text import PUBLIC, content
from tests.evaluation.test_evaluate import read
from tests.golden.deterministic import det_array
from tests.nets.test_clip import PUBLIC as NETWORK
from tests.nets.test_clip import SMALL
from tests.programs.conftest import command  # noqa: F401  (a fixture)

EMPTY, DAMAGED = PUBLIC["captions"].index(""), 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the run directory `prior`, the pictures `data` with captions, and CLIP's files in `clip`."""
    base = tmp_path_factory.mktemp("clip_score")
    (base / "data").mkdir()
    draw = np.random.default_rng(0)
    for i in range(len(PUBLIC["captions"])):
        image = Image.fromarray(draw.integers(0, 256, (8, 12, 3), np.uint8)).resize((24, 16))
        image.save(base / "data" / f"{i}.png")
    (base / "data" / f"{DAMAGED}.png").write_bytes(b"nothing")
    lines = [json.dumps({"image": f"{i}.png", "caption": x}) for i, x in enumerate(PUBLIC["captions"])]
    (base / "data" / "val.jsonl").write_text("\n".join(lines))
    (base / "data" / "train.tsv").write_text("0.png\ta b\n1.png\tb\n")
    data = DataConfig(name="captions", path=str(base / "data"), size=16, resize=16, batch=4, threads=1)
    data = dataclasses.replace(data, vocabulary=str(base / "gone"), text_length=4)
    tokenizer = small_rq.patch_config(resolution=16)
    config = small_rq.small_config(
        classes=0, text_vocab=7, text_length=4, condition_dropout=0.1, body_layers=1, head_layers=1
    )
    config = dataclasses.replace(config, **config.following(tokenizer))
    stages = {
        "prior": (PredictConfig(model=config, tokenizer=tokenizer), config),
        "prior/tokenizer": (AutoencodeConfig(model=tokenizer, perceptual_weight=0.0, disc_weight=0.0), tokenizer),
    }
    for name, (stage, model) in stages.items():
        run = to_dict(Config(stage=stage, data=data, steps=1))
        model_folder.save(base / name, run, {"model": made(model)}, "")
    words.write(base / "prior", VOCABULARY)
    (base / "clip").mkdir()
    arrays = {key: np.asarray(det_array(key, tuple(shape))) for key, shape in NETWORK["small_shapes"].items()}
    save_safetensors(base / "clip" / "model.safetensors", arrays)
    for name, text in content().items():
        (base / "clip" / name).write_text(text)
    return base


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(clip, "shapes", lambda sizes=None, dtype=jnp.float32, of=clip.shapes: of(SMALL, dtype))
    monkeypatch.setattr(shards, "IMAGES", 6)


@pytest.fixture
def by_hand(place):
    """The mean cosine of images with the captions at some places."""
    network = clip.load_clip(str(place / "clip" / "model.safetensors"))

    def cosine(images, rows):
        ids = token_rows([PUBLIC["ids"][i] for i in rows])
        return float(jnp.mean(network(jnp.asarray(prepared(np.stack(images))), jnp.asarray(ids))))

    return cosine


def test_each_image_is_compared_with_the_caption_that_it_was_drawn_for(place, tmp_path, command, monkeypatch, by_hand):  # noqa: F811
    """After an end half-way too. Captions that say nothing draw nothing; damaged pictures are left out."""
    calls = cut_off_at(4, monkeypatch)
    asked = ("evaluate", f"--prior={place / 'prior'}", f"--clip={place / 'clip' / 'model.safetensors'}", "--batch=8")
    asked += ("--guidance=1,2", f"--images={tmp_path / 'images'}", f"--out={tmp_path / 'a.json'}")
    assert command(*asked)[0] == 130
    status, said, err = command(*asked)
    assert status == 0, err
    assert len(calls) == 5
    found = read(tmp_path / "a.json")
    led = [i for i in range(len(PUBLIC["captions"])) if i != EMPTY]
    assert (found["captions"]["split"], found["captions"]["count"]) == ("validation", len(led))
    assert found["captions"]["path"] == str(place / "data")
    for row in found["results"]:
        drawn = tmp_path / "images" / f"guidance_{row['guidance']:g}"
        images = np.concatenate([np.load(path)["arr_0"] for path in sorted(drawn.glob("shard_*.npz"))])
        expected = by_hand(images, led)
        assert row["CLIP score"]["cosine"] == pytest.approx(expected, abs=1e-5)
        assert row["CLIP score"]["times_100"] == pytest.approx(100 * expected, abs=1e-3)
        assert abs(by_hand(images, led[1:] + led[:1]) - expected) > 1e-4  # the captions of others would be seen
    captions = json.loads((tmp_path / "images" / "guidance_1" / "captions.json").read_text())
    assert captions == [PUBLIC["captions"][i].strip() for i in led]
    readable = [i for i in led if i != DAMAGED]
    real = [np.asarray(Image.open(place / "data" / f"{i}.png"))[:, 4:20] for i in readable]
    beside = found["held_out_images"]["CLIP score"]
    assert beside["count"] == len(readable)
    assert beside["cosine"] == pytest.approx(by_hand(real, readable), abs=1e-5)
    about = found["protocol"]["CLIP score"]
    assert (about["weights"], len(about["sha256_of_the_vocabulary"])) == ("model.safetensors", 64)
    assert [line[:6] for line in found["missing"]] == ["no FID"]
    assert "CLIP score  guidance 1  guidance 2  real images held out" in said
    # other captions are another request
    status, _, err = command(*asked, "--count=3", "--overwrite=0", f"--out={tmp_path / 'b.json'}")
    assert (status, "has images of another request (texts is 3 of SHA-256" in err) == (2, True)


def test_wrong_input_is_refused_in_one_line_before_anything_is_drawn(place, tmp_path, command):  # noqa: F811
    prior, weights = f"--prior={place / 'prior'}", place / "clip" / "model.safetensors"
    other = tmp_path / "other"
    other.mkdir()
    (other / "pytorch_model.bin").write_bytes(b"PK")
    words.write(tmp_path, VOCABULARY)  # of bpe16k
    for asked, expected in {
        (
            prior,
        ): "nothing can judge its images, since its training images have no classes: pass --inception FILE, or --clip",
        (prior, "--clip=nowhere.bin"): "--clip='nowhere.bin' is not a file: download model.safetensors",
        (prior, f"--clip={weights}", "--clip_vocabulary=nowhere"): "--clip_vocabulary='nowhere' is not a folder: give",
        (
            prior,
            f"--clip={weights}",
            f"--clip_vocabulary={tmp_path / 'vocabulary'}",
        ): "has 5 tokens, <|startoftext|> as",
        (prior, f"--clip={weights}", f"--clip_vocabulary={other}"): "has none that ends in vocab.json",
        (prior, f"--clip={other / 'pytorch_model.bin'}", f"--clip_vocabulary={place / 'clip'}"): "has SHA-256",
        (prior, f"--clip_vocabulary={place / 'clip'}"): "--clip_vocabulary is read with --clip FILE",
        (prior, f"--clip={weights}", "--save_reference=x.npz"): "--save_reference is for figures of sets of images",
        (prior, f"--clip={weights}", "--count=1"): "1 captions in split 'validation' of",
        (prior, f"--clip={weights}", f"--data={tmp_path}"): "has no list for split 'validation'",
        (f"--tokenizer={place / 'prior'}", f"--clip={weights}"): "--clip is for a prior: leave it out",
    }.items():
        status, _, err = command("evaluate", *asked, f"--out={tmp_path / 'x.json'}")
        assert (status, expected in err, len(err.strip().splitlines())) == (2, True, 1), (asked, err)
    assert not (tmp_path / "x_images").exists()


def test_without_clip_a_prior_of_captions_is_compared_with_their_pictures(place, tmp_path, command):  # noqa: F811
    data = DataConfig(name="synthetic", count=8, classes=3, size=16, batch=8, threads=1)
    config = classifier.settings(data, 3)
    classifier.keep(str(tmp_path / "judge"), made(config.stage.model), config, ())
    asked = (f"--prior={place / 'prior'}", f"--classifier={tmp_path / 'judge'}", "--batch=8", "--count=8")
    status, said, err = command("evaluate", *asked, f"--out={tmp_path / 'a.json'}")
    assert status == 0, err
    found = read(tmp_path / "a.json")
    readable = len(PUBLIC["captions"]) - 1
    assert (found["real_images"]["split"], found["real_images"]["count"]) == ("validation", readable)
    assert found["captions"]["count"] == found["results"][0]["count"] == 8
    assert "frechet_distance" in found["results"][0]["classifier features"]
    assert "class_accuracy" not in found["results"][0]  # captions name no class
    assert found["missing"][1] == "no CLIP score: it needs CLIP's weights (--clip FILE)"
    assert found["missing"][1] in said
