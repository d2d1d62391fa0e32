"""The workloads of benchmarks/against_pytorch.py, from the official configuration files."""

import copy
import dataclasses
import pathlib
from typing import Any

from rqjax.errors import InputError
from rqjax.official.documents import read_yaml

Section = dict[str, Any]
CLOSE = 1e-3
"""The distance of two results over the norm of the official one: a hundred times what rounding did in the goldens."""
ROUNDED = 0.1
"""The share of greedy codes that may differ with weights in fewer bits: where two logits are nearly the same."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One workload: the words of the table, the factor asked for at its full size, what both sides read of it, and how
    far apart they may be.
    """

    name: str
    floor: float
    job: Section
    close: float = CLOSE


def changed(section: Section, **changes: Any) -> Section:
    """A copy in which sections are changed by sections, and all else replaced."""
    found = copy.deepcopy(section)
    for key, value in changes.items():
        inner = found.get(key)
        found[key] = changed(inner, **value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return found


def section(checkout: pathlib.Path, path: str, name: str) -> Section:
    """A section of a configuration file of a checkout. Raises InputError for a folder that is none."""
    if not (checkout / path).is_file():
        raise InputError(f"{checkout} has no {path}: give a checkout of the official code")
    found = read_yaml(checkout / path).get(name)
    if not isinstance(found, dict):
        raise InputError(f"{checkout / path} has no section {name}: give a checkout of the official code")
    return found


def rq_rows(checkout: pathlib.Path, quick: bool) -> list[Row]:
    """The rows of RQ. With `quick` networks are narrower and have fewer layers, on the same grids."""
    stage1 = section(checkout, "configs/ffhq/stage1/ffhq256-rqvae-8x8x4.yaml", "arch")
    stage2 = section(checkout, "configs/ffhq/stage2/ffhq256-rqtransformer-8x8x4-350M.yaml", "arch")
    disc = {"disc_ndf": 64, "disc_num_layers": 2, "disc_weight": 0.75, "disc_loss_weight": 0.75}
    # of a prior's tokenizer nothing but the codebook is read
    books = changed(stage1, ddconfig={"ch": 32, "ch_mult": [1] * 6})
    big = changed(stage2, vocab_size=[2048] * 4)
    small = changed(big, vocab_size=[16384] * 4, embed_dim=512, body=_layers(12, 8), head=_layers(4, 8))
    if quick:
        stage1, disc = changed(stage1, ddconfig={"ch": 32, "num_res_blocks": 1}), disc | {"disc_ndf": 16}
        big = changed(big, body=_layers(2, 16), head=_layers(1, 16))
        small = changed(small, vocab_size=[4096] * 4, body=_layers(2, 8), head=_layers(1, 8))
    of_big = {"prior": big, "tokenizer": books}
    of_small = {"prior": small, "tokenizer": changed(books, hparams={"n_embed": small["vocab_size"][0]})}
    train, sample = {"job": "train prior"}, {"job": "sample", "top_k": 1024, "top_p": 0.95}
    return [
        Row("RQ-VAE, encode + decode 1 image", 1.0, {"job": "reconstruct", "batch": 1, "tokenizer": stage1}),
        Row(
            "RQ-VAE, train step with GAN, 1 image",
            1.1,
            {"job": "train tokenizer", "batch": 1, "tokenizer": stage1, "discriminator": disc, "checked": [*CHECKED]},
        ),
        Row("RQ prior small, train step, batch 8", 1.0, train | of_small | {"batch": 8}),
        Row("RQ prior 350M, train step, batch 2", 1.0, train | of_big | {"batch": 2}),
        *(
            Row(f"RQ prior {size}, sample {batch}", floor, sample | of | {"batch": batch})
            for size, of, floors in (("small", of_small, {1: 2.5, 8: 2, 64: 2}), ("350M", of_big, {1: 1.7, 8: 1.5}))
            for batch, floor in floors.items()
        ),
        *(
            Row(f"RQ prior 350M in {more['dtype']}, sample {more['batch']}", 2, sample | of_big | more, ROUNDED)
            for more in (
                {"dtype": "int8", "batch": 1},
                {"dtype": "int8", "batch": 8},
                {"dtype": "bfloat16", "batch": 8},
            )
        ),
    ]


def dq_rows(checkout: pathlib.Path, quick: bool) -> list[Row]:
    """The rows of DQ: dual grains, half of the regions fine in what is given to priors."""
    stage1 = section(checkout, "configs/stage1/dqvae-dual-r-05_imagenet.yml", "model")
    stage2 = section(checkout, "configs/stage2/uncond_imagenet_p6c18.yml", "model")
    disc = {"disc_ndf": 64, "disc_num_layers": 3, "disc_weight": 1.0, "disc_weight_max": 0.75, "disc_loss_weight": 1.0}
    narrow = {"ch": 32, "num_res_blocks": 1}
    small = changed(stage1, params={name: {"params": narrow} for name in ("encoderconfig", "decoderconfig")})
    if quick:
        stage1, disc = small, disc | {"disc_ndf": 16}
        network = {"n_embd": 256, "position_layer": 1, "content_layer": 2}
        stage2 = changed(stage2, params={"transformer_config": {"params": network}})
    adversary = {"disc_config": {"params": {"ndf": disc["disc_ndf"]}}, "perceptual_weight": 0.0}
    stage1 = changed(stage1, params={"lossconfig": {"params": adversary}})
    both = {"grids": [16, 32], "codes": 1024}
    prior, images = {"prior": stage2, "tokenizer": small}, {"tokenizer": stage1}
    step = {
        "discriminator": {"reconstruction": "l1", **disc},
        "checked": [*CHECKED[:-1], "budget"],
        "noise": [16, 16, 2],
    }
    sample = {"job": "sample dq", "top_k": 300, "top_p": 0.95}
    return [
        Row("DQ-VAE dual, encode + decode 1 image", 1.2, both | images | {"job": "reconstruct", "batch": 1}),
        Row(
            "DQ-VAE dual, train step with GAN, 1 image",
            1.1,
            both | images | step | {"job": "train tokenizer", "batch": 1},
        ),
        Row("DQ prior base, train step, batch 2", 1.0, both | prior | {"job": "train dq prior", "batch": 2}),
        Row("DQ prior base, sample 1 of 643 tokens", 18, both | prior | sample | {"batch": 1}),
        Row("DQ prior base, sample 8 of 643 tokens", 30, both | prior | sample | {"batch": 8}),
    ]


CHECKED = ("reconstruction", "commitment", "adversarial", "lambda", "gradient_norm", "discriminator")
"""Metrics of a tokenizer's step that both sides have; the last is not compared for DQ, where the official discriminator
sees another forward pass."""


def _layers(count: int, heads: int) -> Section:
    return {"n_layer": count, "block": {"n_head": heads}}
