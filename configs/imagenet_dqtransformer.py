"""DQ-Transformer on ImageNet (Huang et al. 2023; the release's {uncond,class}_imagenet_p6c18.yml): 6 + 18 layers.

Variants `uncond` (308,884,480 parameters) and `class` (313,999,360), both on the tokenizer dual_entropy. No weights
and no FID of these files were published. AdamW at 5e-4 without warm-up, batch 240 (8 GPUs with 30 images each),
100 epochs: 533,900 steps.
    rqjax train --config imagenet_dqtransformer:class --workdir runs/imagenet_dqtransformer \
        --config.data.path=FOLDER --config.stage.tokenizer_path=runs/imagenet_dqvae
"""

from rqjax.data import DataConfig
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.errors import InputError
from rqjax.optim import OptimizerConfig
from rqjax.run.config import Config, tokenizer_of
from rqjax.stages.predict import PredictConfig

CLASSES = {"uncond": 0, "class": 1000}
EPOCH = 5_339  # steps: 1,281,167 images in batches of 240
VARIANTS = {
    "class": "314M parameters, led by the class",
    "uncond": "309M parameters",
}
"""Names, the default first, for `rqjax configs`."""


def get_config(variant: str = "class") -> Config:
    if variant not in CLASSES:
        raise InputError(f"variant {variant!r}: expected {' or '.join(CLASSES)}")
    optimizer = OptimizerConfig(name="adamw", learning_rate=5e-4, b1=0.9, b2=0.95, weight_decay=0.01, schedule="cosine")
    return Config(
        stage=PredictConfig(
            model=DQTransformerConfig(classes=CLASSES[variant]),
            tokenizer=tokenizer_of("imagenet_dqvae", "dual_entropy"),
            optimizer=optimizer,
        ),
        data=DataConfig(name="folder", resize=256, size=256, batch=240, crop="random", flip=True, threads=16),
        steps=100 * EPOCH,
        save_every=EPOCH,
    )
