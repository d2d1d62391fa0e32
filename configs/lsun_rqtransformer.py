"""RQ-Transformers on LSUN (Lee et al. 2022, Table 1): cat and bedroom 612M, church 370M parameters.

FID from 50,000 samples: cat 8.64, bedroom 3.04, church 7.45. Church overfits: a third party who trained it anew had
10.07 at epoch 80 and 11.38 at epoch 240, so keep the best checkpoint.
Where sources disagree about church: batch 256 in the YAML, 2048 in the paper; the variant `church` is the YAML,
`church-paper` the paper. Sampling: top_k 250 in all YAMLs (the previews here), 1400 in paper and bundle of church.
Epochs: cat and bedroom 100 at batch 2048, church 300. Hardware of the paper: 4 A100 with microbatches of 32.
    rqjax train --config configs/lsun_rqtransformer.py:cat --workdir runs/cat_rqtransformer \
        --config.data.path=FOLDER --config.stage.tokenizer_path=runs/cat_rqvae
"""

from rqjax.errors import InputError
from rqjax.official import recipes_rq as rq
from rqjax.official.recipes_shared import folder, steps
from rqjax.run.config import Config

BATCH = {"cat": 2048, "bedroom": 2048, "church": 256, "church-paper": 2048}
GPUS, MICROBATCH = 4, 32


def get_config(variant: str = "cat") -> Config:
    if variant not in BATCH:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(BATCH)}")
    scene, batch = variant.partition("-")[0], BATCH[variant]
    church = scene == "church"
    model = rq.rqtransformer(1024, 24, 4) if church else rq.rqtransformer(1280, 26, 4)
    stage = rq.predict(model, rq.rqvae(), batch // (GPUS * MICROBATCH))
    stage.top_k = 250
    return Config(
        stage=stage,
        data=folder("", batch, crop="center", flip=False),
        steps=steps(rq.LSUN[scene], batch, 300 if church else 100),
    )
