"""A tokenizer once over a set of images, and the loss of a prior that reads the result in their place."""

import dataclasses
import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rqjax import __main__ as console
from rqjax.api import latents as module
from rqjax.api.latents import Encoder
from rqjax.data import DataConfig, HeldOut, open_source, rows_of_batches
from rqjax.data.images import to_float
from rqjax.data.prepare import prepare, splits_of
from rqjax.data.records import MANIFEST
from rqjax.data.shards import make
from rqjax.errors import InputError
from rqjax.mesh import make_mesh
from rqjax.run import latents
from rqjax.run.directory import Run

IMAGES = np.random.default_rng(3).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Nine images with captions, of which one is damaged, and the last three are held out."""
    base = tmp_path_factory.mktemp("pictures")
    for k, image in enumerate(IMAGES):
        Image.fromarray(image).save(base / f"{k}.png")
    (base / "2.png").write_bytes(b"no image")
    for split, places in {"train": range(6), "validation": range(6, 9)}.items():
        (base / f"{split}.tsv").write_text("".join(f"{k}.png\tnumber {k}\n" for k in places))
    return base


def settings(pictures, **more):
    return DataConfig(name="captions", path=str(pictures), **{"size": 8, "resize": 8, "batch": 4, "threads": 2} | more)


def encoded(folder, data, out, **more):
    """A set of latents by the tokenizer in a prior's folder."""
    encoder = Encoder(Run.open(folder).tokenizer(), data, **more)
    make(splits_of(data), out, encoder.records, per_shard=4, threads=1, latents=encoder.latents)
    return DataConfig(name="latents", path=str(out), size=8, batch=2, threads=1, split="all", shuffle=False)


@pytest.mark.parametrize(("name", "vectors"), [("rq", True), ("rq", False), ("dq", False)])
def test_a_prior_has_the_same_loss_on_latents(folders, pictures, tmp_path, name, vectors):
    run = Run.open(folders[name])
    source = open_source(encoded(folders[name], settings(pictures), tmp_path / "out", vectors=vectors))
    assert [source[i]["caption"] for i in range(8)] == [f"number {k}" for k in (0, 1, 3, 4, 5, 6, 7, 8)]
    prior, tokenizer = run.model(), run.tokenizer().model()
    if name == "rq" and not vectors:
        hard = dataclasses.replace(prior.config, target="hard", stochastic=False)
        prior = dataclasses.replace(prior, config=hard)
    assert prior.config.reads_vectors == vectors
    kept, key = [0, 1, 3, 4], jax.random.key(0)
    batch = {"label": jnp.asarray([0, 1, 2, 0])}
    latent = jnp.asarray(np.stack([source[i]["latent"][0] for i in range(4)]))
    image = to_float(IMAGES[kept])
    loss = jax.jit(lambda batch: prior.loss(tokenizer, batch, key, train=False)[1])
    if not vectors:  # the loss reads nothing else of an image
        assert "loss" in jax.eval_shape(loss, batch | {"latent": latent})
        pairs = zip(
            *map(jax.tree.leaves, (tokenizer.codes_of({"latent": latent}), tokenizer.encode(image))), strict=True
        )
        assert all(np.array_equal(*pair) for pair in pairs)
        return
    ready, fresh = loss(batch | {"latent": latent}), loss(batch | {"image": image})
    assert ready.keys() == fresh.keys()
    for figure, value in fresh.items():  # the last of 8 bits of the vectors is rounded
        np.testing.assert_allclose(ready[figure], value, rtol=2**-8, err_msg=figure)


def test_views_are_crops_and_mirror_images_and_a_batch_has_any_of_them(folders, pictures, tmp_path):
    wide = settings(pictures, resize=12, crop="random")
    data = encoded(folders["rq"], wide, tmp_path / "out", vectors=False, crops=2, flip=True)
    stored = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (stored["latents"]["views"], stored["latents"]["shape"]) == (4, [4, 4, 3])
    assert [name.rsplit("/", 1)[1] for name in stored["left_out"]] == ["2.png"]
    train, held = (open_source(dataclasses.replace(data, split=split)) for split in ("train", "validation"))
    assert [len(train[0]["latent"]), len(held[0]["latent"])] == [4, 1]
    assert len({view.tobytes() for view in train[0]["latent"]}) > 1
    with rows_of_batches(dataclasses.replace(data, split="train"), range(2)) as stream:
        drawn = [next(stream) for _ in range(20)]
    assert set(drawn[0]) >= {"latent", "label"}
    seen = [[view.tobytes() for view in train[i]["latent"]] for i in range(5)]
    found = [(int(i), x.tobytes()) for part in drawn for i, x in zip(part["index"], part["latent"], strict=True)]
    assert all(latent in seen[i] for i, latent in found)
    assert {seen[0].index(latent) for i, latent in found if i == 0} > {0}
    parts = list(HeldOut(data, "validation", 2, make_mesh("1x1", jax.devices()[:1])))
    assert [part["counts"].tolist() for part in parts] == [[True, True], [True, False]]
    np.testing.assert_array_equal(parts[1]["latent"][0], held[2]["latent"][0])


def test_a_start_that_was_cut_off_goes_on(folders, pictures, tmp_path, monkeypatch):
    whole = encoded(folders["rq"], settings(pictures), tmp_path / "whole", vectors=False)
    pack, calls = module.pack, itertools.count()

    def failing(content, head):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return pack(content, head)

    monkeypatch.setattr(module, "pack", failing)
    with pytest.raises(KeyboardInterrupt):
        encoded(folders["rq"], settings(pictures), tmp_path / "out", vectors=False)
    assert not (tmp_path / "out" / MANIFEST).exists()
    monkeypatch.setattr(module, "pack", pack)
    with pytest.raises(InputError, match=r"beginning of another set \(latents differ\)"):
        encoded(folders["rq"], settings(pictures), tmp_path / "out", vectors=False, flip=True)
    again = encoded(folders["rq"], settings(pictures), tmp_path / "out", vectors=False)
    sources = [open_source(data) for data in (whole, again)]
    for i in range(8):
        np.testing.assert_array_equal(*(source[i]["latent"] for source in sources))


def test_latents_of_another_tokenizer_or_kind_are_refused(folders, pictures, tmp_path):
    config = Run.open(folders["rq"]).config
    config.data = encoded(folders["rq"], settings(pictures), tmp_path / "out", vectors=True)
    config.check()
    latents.check(config, folders["rq"], open_source(config.data))
    path = tmp_path / "out" / MANIFEST
    path.write_text(path.read_text().replace('"tokenizer": "', '"tokenizer": "0'))
    with pytest.raises(InputError, match=r"holds latents of another tokenizer \(\w{12}\) than the one in "):
        latents.check(config, folders["rq"], open_source(config.data))
    codes = encoded(folders["rq"], settings(pictures), tmp_path / "codes", vectors=False)
    with pytest.raises(InputError, match=r"holds codes, and this prior draws codes from vectors: encode again"):
        latents.check(config, folders["rq"], open_source(codes))
    config.stage = Run.open(folders["rq"]).tokenizer().config.stage
    with pytest.raises(InputError, match=r"reads the field 'image' of a batch, and data.name=latents gives label, lat"):
        config.check()
    with pytest.raises(InputError, match=r"holds latents: set data.name=latents"):
        open_source(dataclasses.replace(codes, name="folder"))
    with pytest.raises(InputError, match="holds no latents: expected a folder that `rqjax encode` made"):
        open_source(dataclasses.replace(codes, path=str(pictures)))
    prepare(splits_of(settings(pictures)), tmp_path / "images", per_shard=9, threads=1)
    with pytest.raises(InputError, match=r"holds images: set data.name=folder"):
        open_source(dataclasses.replace(codes, path=str(tmp_path / "images")))
    with pytest.raises(InputError, match="a DQ-VAE's vectors are no latents"):
        encoded(folders["dq"], settings(pictures), tmp_path / "dq", vectors=True)


def test_the_command_encodes_a_prepared_set(folders, pictures, tmp_path, monkeypatch, capsys):
    prepare(splits_of(settings(pictures)), tmp_path / "set", per_shard=9, threads=1)
    flags = ["--tokenizer", folders["rq"], "--data", tmp_path / "set", "--out", tmp_path / "out", "--batch", 4]
    monkeypatch.setattr(sys, "argv", ["rqjax", "encode", *map(str, flags), "--codes"])
    console.main()
    assert "images: 5 in train, 3 in validation; codes 4x4x3, views: 1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        console.main()
    assert "holds a prepared set already" in capsys.readouterr().err
