"""What the published recipes of both papers have in common: optimizers, images, and how long an epoch is."""

import math

from rqjax.data.pipeline import DataConfig
from rqjax.optim import OptimizerConfig

IMAGENET = 1_281_167
"""Training images of ILSVRC-2012."""


def steps(images: int, batch: int, epochs: int | float) -> int:
    """Updates in so many epochs, the last incomplete batch of each counted, as the releases do."""
    return round(math.ceil(images / batch) * epochs)


def folder(path: str, batch: int, *, crop: str = "random", flip: bool = True) -> DataConfig:
    """Images of 256x256 from a folder: the shorter side scaled to 256 and cropped, or a square of the original."""
    return DataConfig(name="folder", path=path, resize=256, size=256, batch=batch, crop=crop, flip=flip, threads=16)


def adam(*, learning_rate: float, warmup_steps: int, schedule: str) -> OptimizerConfig:
    """Adam as both papers train their tokenizers."""
    return OptimizerConfig(
        name="adam",
        learning_rate=learning_rate,
        b1=0.5,
        b2=0.9,
        weight_decay=0.0,
        clip_norm=0.0,
        warmup_steps=warmup_steps,
        schedule=schedule,
        min_learning_rate=0.0,
    )


def adamw(*, weight_decay: float, clip_norm: float) -> OptimizerConfig:
    """AdamW as both papers train their priors."""
    return OptimizerConfig(
        name="adamw",
        learning_rate=5e-4,
        b1=0.9,
        b2=0.95,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        warmup_steps=0,
        schedule="cosine",
        min_learning_rate=0.0,
    )
