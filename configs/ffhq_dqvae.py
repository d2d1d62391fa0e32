"""DQ-VAE on FFHQ at 256x256: the release's dual entropy recipe with FFHQ's own threshold and crops.

The release ships FFHQ's threshold table but no file for it; batch 240 (8 GPUs with 30 images each) and 50 epochs are
those of its ImageNet files. 60,000 training images: 12,500 steps. No published figure is tied to this file.
    rqjax train --config ffhq_dqvae --workdir runs/ffhq_dqvae \
        --config.data.path=FOLDER --config.stage.vgg16_path=vgg16-397923af.pth
"""

from rqjax.dq.convolutions import DQVAEConfig
from rqjax.errors import InputError
from rqjax.run.config import Config, load_file
from rqjax.stages.autoencode import AutoencodeConfig

MEDIAN_ENTROPY = 1.545932412147522  # of 16x16 patches of FFHQ, by the release's table
EPOCH = 250  # steps: 60,000 images in batches of 240


def get_config(variant: str = "") -> Config:
    if variant:
        raise InputError(f"variant {variant!r}: this file has none")
    config = load_file("imagenet_dqvae", "dual_entropy")
    stage = config.stage
    assert isinstance(stage, AutoencodeConfig)
    assert isinstance(stage.model, DQVAEConfig)
    stage.model.routing.thresholds = (MEDIAN_ENTROPY,)
    stage.optimizer.warmup_steps = stage.discriminator_optimizer.warmup_steps = EPOCH // 10
    config.data.crop = "random_resized"
    config.steps, config.save_every = 50 * EPOCH, EPOCH
    return config
