"""DQ-VAE on ImageNet at 256x256 (Huang et al. 2023; the release's dqvae-*_imagenet.yml), codebook of 1024.

| variant | grains | router | parameters (trained, with codebook) |
|---|---|---|---|
| dual_feature | 16x16 and 32x32, half fine | features, budget 10 | 48,098,437 |
| dual_entropy | the same | entropy of patches above its median in ImageNet | 47,833,731 |
| triple | 8x8, 16x16 and 32x32: .4, .3, .3 | features, budget 1 | 74,010,502 |

The README gives rFID 1.6968 for dual_entropy, whose published weights had 10 epochs on 4 A100; its command, and this
file, have 50 epochs on 8 GPUs with 30 images each: batch 240, rate 240 x 4.5e-6, 266,950 steps.
    rqjax train --config configs/imagenet_dqvae.py:dual_feature --workdir runs/imagenet_dqvae \
        --config.data.path=FOLDER --config.stage.vgg16_path=vgg16-397923af.pth
"""

from rqjax.errors import InputError
from rqjax.official import recipes_dq as dq
from rqjax.official.recipes_shared import IMAGENET, folder, steps
from rqjax.run.config import Config

ROUTERS = {
    "dual_feature": dq.routing((0.5,), 10.0),
    "dual_entropy": dq.routing((0.5,), 0.0, threshold=dq.MEDIAN_ENTROPY),
    "triple": dq.routing((0.3, 0.3), 1.0),
}


def get_config(variant: str = "dual_feature") -> Config:
    if variant not in ROUTERS:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(ROUTERS)}")
    return Config(
        stage=dq.autoencode(dq.dqvae(ROUTERS[variant])),
        data=folder("", dq.BATCH),
        steps=steps(IMAGENET, dq.BATCH, 50),
        save_every=steps(IMAGENET, dq.BATCH, 1),
    )
