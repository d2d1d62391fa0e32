"""RQ-VAE on ImageNet at 256x256: 8x8x4 codes out of 16384 (Lee et al. 2022; the release's in256-rqvae-8x8x4).

Variants: `10epochs` (YAML and paper; rFID 4.73 on the 50,000 validation images) and `50epochs` (rFID 3.20; no file of
it was published, and how its rate was scheduled is not known: here only the number of epochs differs). `patches`: ten
epochs with transformers over patches of 8x8 pixels, of the Base size of ViT-VQGAN (Yu et al. 2022), in the place of the
convolutions; nobody has published one with residual codes, so no result is known.
Hardware of the paper: 4 A100 with 32 images each. An epoch of 1,281,167 images at batch 128 has 10,010 steps.
    rqjax train --config imagenet_rqvae --workdir runs/imagenet_rqvae \
        --config.data.path=FOLDER --config.stage.vgg16_path=vgg16-397923af.pth
"""

from rqjax.data import DataConfig
from rqjax.errors import InputError
from rqjax.optim import OptimizerConfig
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.patches import PatchRQVAEConfig
from rqjax.run.config import Config
from rqjax.stages.autoencode import AutoencodeConfig

EPOCHS = {"10epochs": 10, "50epochs": 50, "patches": 10}
EPOCH = 10_010  # steps: 1,281,167 images in batches of 128
VARIANTS = {
    "10epochs": "of the release's file and the paper",
    "50epochs": "rFID 3.20; only the number of epochs differs",
    "patches": "transformers over patches for the convolutions; no result known",
}
"""Names, the default first, for `rqjax configs`."""


def get_config(variant: str = "10epochs") -> Config:
    if variant not in EPOCHS:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(EPOCHS)}")
    return Config(
        stage=AutoencodeConfig(
            model=PatchRQVAEConfig(remat=True) if variant == "patches" else RQVAEConfig(),
            optimizer=OptimizerConfig(learning_rate=4e-5, warmup_steps=EPOCH // 2),
            discriminator_optimizer=OptimizerConfig(learning_rate=4e-5, warmup_steps=EPOCH // 2),
        ),
        data=DataConfig(name="folder", resize=256, size=256, batch=128, crop="random", flip=True, threads=16),
        steps=EPOCHS[variant] * EPOCH,
        save_every=EPOCH,
    )
