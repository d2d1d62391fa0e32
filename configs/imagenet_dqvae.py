"""DQ-VAE on ImageNet at 256x256 (Huang et al. 2023; the release's dqvae-*_imagenet.yml), codebook of 1024.

| variant | grains | router | parameters (trained, with codebook) |
|---|---|---|---|
| dual_feature | 16x16 and 32x32, half fine | features, budget 10 | 48,098,437 |
| dual_entropy | the same | entropy of patches above its median in ImageNet | 47,833,731 |
| triple | 8x8, 16x16 and 32x32: .4, .3, .3 | features, budget 1 | 74,010,502 |

The README gives rFID 1.6968 for dual_entropy, whose published weights had 10 epochs on 4 A100; its command, and this
file, have 50 epochs on 8 GPUs with 30 images each: batch 240, rate 240 x 4.5e-6, 266,950 steps.
    rqjax train --config imagenet_dqvae:dual_feature --workdir runs/imagenet_dqvae \
        --config.data.path=FOLDER --config.stage.vgg16_path=vgg16-397923af.pth
"""

from rqjax.data import DataConfig
from rqjax.dq.convolutions import DQVAEConfig
from rqjax.dq.routing import RoutingConfig
from rqjax.errors import InputError
from rqjax.optim import OptimizerConfig
from rqjax.run.config import Config
from rqjax.stages.autoencode import AutoencodeConfig

MEDIAN_ENTROPY = 1.6777750253677368  # of 16x16 patches of ImageNet's training images, by the release's table
ENTROPY = RoutingConfig(router="entropy", budget_weight=0.0, groups=0, thresholds=(MEDIAN_ENTROPY,))
MODELS = {
    "dual_feature": DQVAEConfig(),
    "dual_entropy": DQVAEConfig(routing=ENTROPY),
    "triple": DQVAEConfig(
        grains=3,
        ch_mult=(1, 1, 2, 2, 4, 4),
        attn_resolutions=(8, 16, 32),
        routing=RoutingConfig(ratios=(0.3, 0.3), budget_weight=1.0),
    ),
}
EPOCH = 5_339  # steps: 1,281,167 images in batches of 240
VARIANTS = {
    "dual_feature": "16x16 and 32x32 codes, routed by features",
    "dual_entropy": "the same, routed by the entropy of patches",
    "triple": "8x8, 16x16 and 32x32 codes, routed by features",
}
"""Names, the default first, for `rqjax configs`."""


def get_config(variant: str = "dual_feature") -> Config:
    if variant not in MODELS:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(MODELS)}")
    return Config(
        stage=AutoencodeConfig(
            model=MODELS[variant],
            reconstruction="l1",
            disc_weight=1.0,
            disc_weight_max=0.75,
            disc_loss_weight=1.0,
            disc_num_layers=3,
            disc_groups=8,
            optimizer=_adam(),
            discriminator_optimizer=_adam(),
        ),
        data=DataConfig(name="folder", resize=256, size=256, batch=240, crop="random", flip=True, threads=16),
        steps=50 * EPOCH,
        save_every=EPOCH,
    )


def _adam() -> OptimizerConfig:
    return OptimizerConfig(learning_rate=240 * 4.5e-6, warmup_steps=534, schedule="clipped_cosine")
