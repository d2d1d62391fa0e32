"""DQ-VAE on FFHQ at 256x256: the release's dual entropy recipe with FFHQ's own threshold and crops.

The release ships FFHQ's threshold table but no file for it; batch 240 (8 GPUs with 30 images each) and 50 epochs are
those of its ImageNet files. 60,000 training images: 12,500 steps. No published figure is tied to this file.
    rqjax train --config configs/ffhq_dqvae.py --workdir runs/ffhq_dqvae \
        --config.data.path=FOLDER --config.stage.vgg16_path=vgg16-397923af.pth
"""

from rqjax.errors import InputError
from rqjax.official import recipes_dq as dq
from rqjax.official.recipes_rq import FFHQ
from rqjax.official.recipes_shared import folder, steps
from rqjax.run.config import Config


def get_config(variant: str = "") -> Config:
    if variant:
        raise InputError(f"variant {variant!r}: this file has none")
    stage = dq.autoencode(dq.dqvae(dq.routing((0.5,), 0.0, threshold=dq.MEDIAN_ENTROPY_FFHQ)))
    for optimizer in (stage.optimizer, stage.discriminator_optimizer):
        optimizer.warmup_steps = steps(FFHQ, dq.BATCH, 1) // 10
    return Config(
        stage=stage,
        data=folder("", dq.BATCH, crop="random_resized"),
        steps=steps(FFHQ, dq.BATCH, 50),
        save_every=steps(FFHQ, dq.BATCH, 1),
    )
