"""RQ-VAE on FFHQ at 256x256: 8x8x4 codes out of 2048 (Lee et al. 2022, appendix; the release's ffhq256-rqvae-8x8x4).

Hardware of the paper: 4 A100 with 32 images each. 150 epochs of 60,000 images at batch 128: 70,350 steps.
Data: a folder of the 60,000 training images of VQ-GAN's split. LPIPS needs torchvision's vgg16-397923af.pth.
    rqjax train --config configs/ffhq_rqvae.py --workdir runs/ffhq_rqvae \
        --config.data.path=FOLDER --config.stage.vgg16_path=vgg16-397923af.pth
"""

from rqjax.errors import InputError
from rqjax.official import recipes_rq as rq
from rqjax.official.recipes_shared import folder, steps
from rqjax.run.config import Config


def get_config(variant: str = "") -> Config:
    if variant:
        raise InputError(f"variant {variant!r}: this file has none")
    epoch = steps(rq.FFHQ, 128, 1)
    return Config(
        stage=rq.autoencode(rq.rqvae(codes=2048, attention=16), 4e-5, warmup_steps=5 * epoch),
        data=folder("", 128, crop="random_resized"),
        steps=150 * epoch,
        save_every=5 * epoch,
    )
