"""RQ-VAEs on LSUN cat, church and bedroom, fine-tuned from ImageNet's (Lee et al. 2022; {cat,church,bedroom}256-rqvae).

Where sources disagree: the rate is 4e-5 in the YAMLs, 4e-6 in the paper and in the published bundle of church; church
has 1 epoch in YAML and paper, 3 in that bundle. Variants `cat`, `church`, `bedroom` follow the bundle and the paper,
`cat-yaml`, `church-yaml`, `bedroom-yaml` the YAMLs. With 4e-5, a third party's church came out well below the released
tokenizer. No warm-up; the discriminator starts anew, as the published checkpoint has none.
Images: 1,657,266 (cat), 126,227 (church), 3,033,042 (bedroom), centrally cropped, never mirrored; batch 128.
    rqjax train --config lsun_rqvae:cat --workdir runs/cat_rqvae --config.start_from=runs/imagenet_rqvae \
        --config.data.path=FOLDER --config.stage.vgg16_path=vgg16-397923af.pth
"""

from rqjax.data import DataConfig
from rqjax.errors import InputError
from rqjax.optim import OptimizerConfig
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.run.config import Config
from rqjax.stages.autoencode import AutoencodeConfig

STEPS = {
    "cat": 12_948,
    "church": 3 * 987,
    "bedroom": 23_696,
    "cat-yaml": 12_948,
    "church-yaml": 987,
    "bedroom-yaml": 23_696,
}
VARIANTS = {
    "cat": "cat, as in the bundle and the paper",
    "church": "church, as in the bundle and the paper",
    "bedroom": "bedroom, as in the bundle and the paper",
    "cat-yaml": "cat, as in the release's file",
    "church-yaml": "church, as in the release's file",
    "bedroom-yaml": "bedroom, as in the release's file",
}
"""Names, the default first, for `rqjax configs`."""


def get_config(variant: str = "cat") -> Config:
    if variant not in STEPS:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(STEPS)}")
    rate = 4e-5 if variant.endswith("-yaml") else 4e-6
    return Config(
        stage=AutoencodeConfig(
            model=RQVAEConfig(),
            optimizer=OptimizerConfig(learning_rate=rate),
            discriminator_optimizer=OptimizerConfig(learning_rate=rate),
        ),
        data=DataConfig(name="folder", resize=256, size=256, batch=128, crop="center", threads=16),
        steps=STEPS[variant],
    )
