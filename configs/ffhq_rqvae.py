"""RQ-VAE on FFHQ at 256x256: 8x8x4 codes out of 2048 (Lee et al. 2022, appendix; the release's ffhq256-rqvae-8x8x4).

Hardware of the paper: 4 A100 with 32 images each. 150 epochs of 60,000 images at batch 128: 70,350 steps.
Data: a folder of the 60,000 training images of VQ-GAN's split. LPIPS needs torchvision's vgg16-397923af.pth.
    rqjax train --config ffhq_rqvae --workdir runs/ffhq_rqvae \
        --config.data.path=FOLDER --config.stage.vgg16_path=vgg16-397923af.pth
"""

from rqjax.data import DataConfig
from rqjax.errors import InputError
from rqjax.optim import OptimizerConfig
from rqjax.quantize.config import QuantizerConfig
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.run.config import Config
from rqjax.stages.autoencode import AutoencodeConfig

EPOCH = 469  # steps: 60,000 images in batches of 128


def get_config(variant: str = "") -> Config:
    if variant:
        raise InputError(f"variant {variant!r}: this file has none")
    return Config(
        stage=AutoencodeConfig(
            model=RQVAEConfig(attn_resolutions=(16,), quantizer=QuantizerConfig(codebook_size=(2048,))),
            optimizer=OptimizerConfig(learning_rate=4e-5, warmup_steps=5 * EPOCH),
            discriminator_optimizer=OptimizerConfig(learning_rate=4e-5, warmup_steps=5 * EPOCH),
        ),
        data=DataConfig(name="folder", resize=256, size=256, batch=128, crop="random_resized", flip=True, threads=16),
        steps=150 * EPOCH,
        save_every=5 * EPOCH,
    )
