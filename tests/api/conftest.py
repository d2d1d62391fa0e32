"""Folders of tiny models that nobody trained: loading and asking are the same, and nothing waits for training."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rqjax
from rqjax.data import DataConfig
from rqjax.run import words
from rqjax.run.config import Config, to_dict
from rqjax.run.dataset import write_class_names
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig
from rqjax.store import model_folder
from tests import small_dq, small_rq

NAMES = ("Bag", "Coat", "Dress")
VOCABULARY = {
    "vocab.json": json.dumps({"[PAD]": 0, "[UNK]": 1, "a": 2, "b</w>": 3, "ab</w>": 4}),
    "merges.txt": "a b</w>\n",
}
FEW = {"body_layers": 1, "head_layers": 1}
DATA = DataConfig(name="fashion_mnist", resize=8, size=8, batch=8)


def write(folder, stage, model):
    model_folder.save(folder, to_dict(Config(stage=stage, data=DATA, steps=1)), {"model": model}, "terms")
    write_class_names(folder, NAMES)


def write_pair(folder, tokenizer, prior):
    """A prior that follows a tokenizer, and the tokenizer below it."""
    prior = dataclasses.replace(prior, **prior.following(tokenizer))
    prior.check_tokenizer(tokenizer)
    write(folder, PredictConfig(model=prior, tokenizer=tokenizer), made(prior))
    vae = AutoencodeConfig(model=tokenizer, perceptual_weight=0.0, disc_weight=0.0)
    write(folder / "tokenizer", vae, made(tokenizer))


def made(config):
    """A model of random numbers, without a program that draws them."""
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(config.init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.4, x.shape), x.dtype), shapes)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Run directories by name: an RQ prior and a DQ prior of three classes and of texts, and an unconditional one."""
    base = tmp_path_factory.mktemp("api")
    tokenizer, small = small_rq.tokenizer_config(), small_rq.small_config(classes=3, condition_dropout=0.1, **FEW)
    write_pair(base / "rq", tokenizer, small)
    for name, changes in {
        "free": {"classes": 0, "condition_dropout": 0.0},
        "text": {"classes": 0, "condition_dropout": 0.0, "text_vocab": 7, "text_length": 4},
    }.items():
        write_pair(base / name, tokenizer, dataclasses.replace(small, **changes))
    words.write(base / "text", VOCABULARY)
    write_pair(base / "dq", small_dq.tokenizer_config(), small_dq.small_config(condition_dropout=0.1))
    texts = {"classes": 0, "text_vocab": 7, "text_length": 4, "text_dim": 8, "text_layers": 1, "text_heads": 2}
    write_pair(base / "dq_text", small_dq.tokenizer_config(), small_dq.small_config(**texts))
    words.write(base / "dq_text", VOCABULARY)
    return {path.name: path for path in base.iterdir()}


@pytest.fixture(scope="session", params=["rq", "dq"])
def prior(folders, request):
    """A prior on one device: small programs wait longer for several. Tests share the programs of 4 images."""
    return rqjax.load(folders[request.param], devices=jax.local_devices()[:1], batch=4)


@pytest.fixture(scope="session")
def residual(folders):
    return rqjax.load(folders["rq"], devices=jax.local_devices()[:1], batch=4)
