"""RQ-Transformers on LSUN (Lee et al. 2022, Table 1): cat and bedroom 612M, church 370M parameters.

FID from 50,000 samples: cat 8.64, bedroom 3.04, church 7.45. Church overfits: a third party who trained it anew had
10.07 at epoch 80 and 11.38 at epoch 240, so keep the best checkpoint.
Where sources disagree about church: batch 256 in the YAML, 2048 in the paper; the variant `church` is the YAML,
`church-paper` the paper. Sampling: top_k 250 in all YAMLs (the previews here), 1400 in paper and bundle of church.
Epochs: cat and bedroom 100 at batch 2048, church 300. Hardware of the paper: 4 A100 with microbatches of 32.
    rqjax train --config lsun_rqtransformer:cat --workdir runs/cat_rqtransformer \
        --config.data.path=FOLDER --config.stage.tokenizer_path=runs/cat_rqvae
"""

from rqjax.data import DataConfig
from rqjax.errors import InputError
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run.config import Config
from rqjax.stages.predict import PredictConfig

LARGE = RQTransformerConfig(dim=1280, body_layers=26, head_layers=4)
SMALL = RQTransformerConfig(dim=1024, body_layers=24, head_layers=4)
RUNS = {
    "cat": (LARGE, 2048, 100 * 810),
    "bedroom": (LARGE, 2048, 100 * 1481),
    "church": (SMALL, 256, 300 * 494),
    "church-paper": (SMALL, 2048, 300 * 62),
}
"""The model, the batch and the steps: epochs, times the steps of one."""
VARIANTS = {
    "cat": "612M parameters",
    "bedroom": "612M parameters",
    "church": "370M parameters, batch 256 as in the release's file",
    "church-paper": "370M parameters, batch 2048 as in the paper",
}
"""Names, the default first, for `rqjax configs`."""


def get_config(variant: str = "cat") -> Config:
    if variant not in RUNS:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(RUNS)}")
    model, batch, steps = RUNS[variant]
    return Config(
        stage=PredictConfig(model=model, tokenizer=RQVAEConfig(), accumulate=batch // 128, top_k=250),
        data=DataConfig(name="folder", resize=256, size=256, batch=batch, crop="center", threads=16),
        steps=steps,
    )
