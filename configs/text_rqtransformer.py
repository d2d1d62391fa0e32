"""Text to image of 3.9B parameters on CC-3M, CC-12M and a part of YFCC (README of the release, no YAML published).

FID 16.9 on 30,000 captions of MS-COCO, sampled with top_k 1024 and top_p 0.95. Sizes are inferred: those of
ImageNet's 3800m with texts of 16384 tokens have 3,903,915,008 parameters at a length of 32 (variant `length32`, the
default) and 3,903,996,928 at 64 (`length64`); a vocabulary of 30,000 would make it 3.97B. What decides is the
config.yaml of the archive: `rqjax convert` reads it. Batch, epochs and dropout are those of the other models.
"""

from rqjax.data import DataConfig
from rqjax.errors import InputError
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run.config import Config
from rqjax.stages.predict import PredictConfig

LENGTHS = {"length32": 32, "length64": 64}
VARIANTS = {
    "length32": "captions of 32 tokens",
    "length64": "captions of 64 tokens",
}
"""Names, the default first, for `rqjax configs`."""


def get_config(variant: str = "length32") -> Config:
    if variant not in LENGTHS:
        raise InputError(f"variant {variant!r}: expected {' or '.join(LENGTHS)}")
    model = RQTransformerConfig(
        dim=2560,
        body_layers=42,
        head_layers=6,
        text_vocab=16384,
        text_length=LENGTHS[variant],
        image_loss_weight=0.9,
        text_loss_weight=0.1,
    )
    return Config(
        stage=PredictConfig(model=model, tokenizer=RQVAEConfig(), accumulate=64, top_k=1024, top_p=0.95),
        data=DataConfig(
            name="captions",
            text_length=LENGTHS[variant],
            text_dropout=0.1,
            resize=256,
            size=256,
            batch=2048,
            crop="random",
            threads=16,
        ),
        steps=14_649,  # an epoch of about 30,000,000 images, the three sources together
    )
