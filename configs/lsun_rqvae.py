"""RQ-VAEs on LSUN cat, church and bedroom, fine-tuned from ImageNet's (Lee et al. 2022; {cat,church,bedroom}256-rqvae).

Where sources disagree: the rate is 4e-5 in the YAMLs, 4e-6 in the paper and in the published bundle of church; church
has 1 epoch in YAML and paper, 3 in that bundle. Variants `cat`, `church`, `bedroom` follow the bundle and the paper,
`cat-yaml`, `church-yaml`, `bedroom-yaml` the YAMLs. With 4e-5, a third party's church came out well below the released
tokenizer. No warm-up; the discriminator starts anew, as the published checkpoint has none.
Images: 1,657,266 (cat), 126,227 (church), 3,033,042 (bedroom), centrally cropped, never mirrored; batch 128.
    rqjax train --config configs/lsun_rqvae.py:cat --workdir runs/cat_rqvae --config.start_from=runs/imagenet_rqvae \
        --config.data.path=FOLDER --config.stage.vgg16_path=vgg16-397923af.pth
"""

from rqjax.errors import InputError
from rqjax.official import recipes_rq as rq
from rqjax.official.recipes_shared import folder, steps
from rqjax.run.config import Config


def get_config(variant: str = "cat") -> Config:
    scene, _, source = variant.partition("-")
    if scene not in rq.LSUN or source not in ("", "yaml"):
        raise InputError(f"variant {variant!r}: expected one of {', '.join(rq.LSUN)}, or any of them with -yaml")
    epochs = 3 if scene == "church" and not source else 1
    return Config(
        stage=rq.autoencode(rq.rqvae(), 4e-5 if source else 4e-6),
        data=folder("", 128, crop="center", flip=False),
        steps=steps(rq.LSUN[scene], 128, epochs),
    )
