"""Text to image of 3.9B parameters on CC-3M, CC-12M and a part of YFCC (README of the release, no YAML published).

FID 16.9 on 30,000 captions of MS-COCO, sampled with top_k 1024 and top_p 0.95. Sizes are inferred: those of
ImageNet's 3800m with texts of 16384 tokens have 3,903,915,008 parameters at a length of 32 (variant `length32`, the
default) and 3,903,996,928 at 64 (`length64`); a vocabulary of 30,000 would make it 3.97B. What decides is the
config.yaml of the archive: `rqjax convert` reads it. Batch, epochs and dropout are those of the other models.
"""

from rqjax.errors import InputError
from rqjax.official import recipes_rq as rq
from rqjax.official.recipes_shared import folder, steps
from rqjax.run.config import Config

LENGTHS = {"length32": 32, "length64": 64}
IMAGES = 30_000_000  # about: the three sources together


def get_config(variant: str = "length32") -> Config:
    if variant not in LENGTHS:
        raise InputError(f"variant {variant!r}: expected {' or '.join(LENGTHS)}")
    stage = rq.predict(rq.rqtransformer(2560, 42, 6, text=LENGTHS[variant]), rq.rqvae(), 64)
    stage.top_k, stage.top_p = 1024, 0.95
    return Config(stage=stage, data=folder("", 2048, flip=False), steps=steps(IMAGES, 2048, 1))
