"""DQ-Transformer on ImageNet (Huang et al. 2023; the release's {uncond,class}_imagenet_p6c18.yml): 6 + 18 layers.

Variants `uncond` (308,884,480 parameters) and `class` (313,999,360), both on the tokenizer dual_entropy. No weights
and no FID of these files were published. AdamW at 5e-4 without warm-up, batch 240 (8 GPUs with 30 images each),
100 epochs: 533,900 steps.
    rqjax train --config configs/imagenet_dqtransformer.py:class --workdir runs/imagenet_dqtransformer \
        --config.data.path=FOLDER --config.stage.tokenizer_path=runs/imagenet_dqvae
"""

from rqjax.errors import InputError
from rqjax.official import recipes_dq as dq
from rqjax.official.recipes_shared import IMAGENET, folder, steps
from rqjax.run.config import Config

CLASSES = {"uncond": 0, "class": 1000}


def get_config(variant: str = "class") -> Config:
    if variant not in CLASSES:
        raise InputError(f"variant {variant!r}: expected {' or '.join(CLASSES)}")
    tokenizer = dq.dqvae(dq.routing((0.5,), 0.0, threshold=dq.MEDIAN_ENTROPY))
    return Config(
        stage=dq.predict(dq.dqtransformer(CLASSES[variant]), tokenizer),
        data=folder("", dq.BATCH),
        steps=steps(IMAGENET, dq.BATCH, 100),
        save_every=steps(IMAGENET, dq.BATCH, 1),
    )
