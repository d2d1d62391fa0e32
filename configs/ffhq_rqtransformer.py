"""RQ-Transformer of 355M parameters on FFHQ (Lee et al. 2022; the release's ffhq256-rqtransformer-8x8x4-350M).

FID 10.38 from 50,000 samples (README of the release; its YAML samples with top_k 250).
Batch: 128 in the YAML, 16 in the paper's appendix; the variants `yaml` (default) and `paper` are these two. Training
of the paper was stopped at epoch 39 of 200. Hardware: 4 A100, a day. 200 epochs of 60,000 images: 93,800 steps.
    rqjax train --config configs/ffhq_rqtransformer.py --workdir runs/ffhq_rqtransformer \
        --config.data.path=FOLDER --config.stage.tokenizer_path=runs/ffhq_rqvae
"""

from rqjax.errors import InputError
from rqjax.official import recipes_rq as rq
from rqjax.official.recipes_shared import folder, steps
from rqjax.run.config import Config

BATCH = {"yaml": 128, "paper": 16}


def get_config(variant: str = "yaml") -> Config:
    if variant not in BATCH:
        raise InputError(f"variant {variant!r}: expected {' or '.join(BATCH)}")
    batch = BATCH[variant]
    stage = rq.predict(rq.rqtransformer(1024, 24, 4, codes=2048), rq.rqvae(codes=2048, attention=16))
    stage.top_k = 250
    return Config(
        stage=stage,
        data=folder("", batch, crop="random_resized"),
        steps=steps(rq.FFHQ, batch, 200),
        save_every=steps(rq.FFHQ, batch, 10),
    )
