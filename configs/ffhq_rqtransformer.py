"""RQ-Transformer of 355M parameters on FFHQ (Lee et al. 2022; the release's ffhq256-rqtransformer-8x8x4-350M).

FID 10.38 from 50,000 samples (README of the release; its YAML samples with top_k 250).
Batch: 128 in the YAML, 16 in the paper's appendix; the variants `yaml` (default) and `paper` are these two. Training
of the paper was stopped at epoch 39 of 200. Hardware: 4 A100, a day. 200 epochs of 60,000 images: 93,800 steps.
    rqjax train --config ffhq_rqtransformer --workdir runs/ffhq_rqtransformer \
        --config.data.path=FOLDER --config.stage.tokenizer_path=runs/ffhq_rqvae
"""

from rqjax.data import DataConfig
from rqjax.errors import InputError
from rqjax.quantize.config import QuantizerConfig
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run.config import Config
from rqjax.stages.predict import PredictConfig

BATCH = {"yaml": 128, "paper": 16}
EPOCH = {"yaml": 469, "paper": 3_750}  # steps: 60,000 images
VARIANTS = {
    "yaml": "batch 128, as in the release's file",
    "paper": "batch 16, as in the paper's appendix",
}
"""Names, the default first, for `rqjax configs`."""


def get_config(variant: str = "yaml") -> Config:
    if variant not in BATCH:
        raise InputError(f"variant {variant!r}: expected {' or '.join(BATCH)}")
    data = DataConfig(
        name="folder", resize=256, size=256, batch=BATCH[variant], crop="random_resized", flip=True, threads=16
    )
    return Config(
        stage=PredictConfig(
            model=RQTransformerConfig(dim=1024, body_layers=24, head_layers=4, codebook_size=(2048,)),
            tokenizer=RQVAEConfig(attn_resolutions=(16,), quantizer=QuantizerConfig(codebook_size=(2048,))),
            top_k=250,
        ),
        data=data,
        steps=200 * EPOCH[variant],
        save_every=10 * EPOCH[variant],
    )
