"""Class-conditional RQ-Transformers on ImageNet (Lee et al. 2022, Table 2; in256-rqtransformer-8x8x4-*).

| variant | parameters | tokenizer | FID | IS |
|---|---|---|---|---|
| 480m  | 480,921,088 | 10 epochs | 15.72 | 86.8 |
| 800m  | 820,899,328 | 10 epochs | 13.11 | 104.3 |
| 1400m | 1,387,529,728 | 10 epochs (50 epochs) | 11.56 (8.71) | 112.4 (119.0) |
| 3800m | 3,822,488,064 | 50 epochs | 7.55 | 134.0 |

A prior serves only the tokenizer it was trained on. Batch 2048, 100 epochs of 1,281,167 images: 62,600 steps.
Where sources disagree: dropout of 3800m is 0.1 in the YAML (by default) and 0.3 in the paper; here 0.3. Sampling is
top_k 16384 and top_p 0.92 in the YAML (the previews here), 256 and 0.95 in the published bundles of 480m and 1400m.
Hardware of the paper: 1400m on 8 A100, others on 4, with microbatches of 32 (480m, 800m) or 8 images a GPU; that is
--config.stage.accumulate=16 (32 for 1400m, 64 for 3800m). Here microbatches are larger: each gathers all weights once.
    rqjax train --config imagenet_rqtransformer:1400m --workdir runs/imagenet_1400m \
        --config.data.path=FOLDER --config.stage.tokenizer_path=runs/imagenet_rqvae
"""

from rqjax.data import DataConfig
from rqjax.errors import InputError
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run.config import Config
from rqjax.stages.predict import PredictConfig

MODELS = {
    "480m": RQTransformerConfig(dim=1536, body_layers=12, head_layers=4, classes=1000),
    "800m": RQTransformerConfig(dim=1536, body_layers=24, head_layers=4, classes=1000),
    "1400m": RQTransformerConfig(dim=1536, body_layers=42, head_layers=6, classes=1000),
    "3800m": RQTransformerConfig(dim=2560, body_layers=42, head_layers=6, classes=1000, dropout=0.3),
}
EPOCH = 626  # steps: 1,281,167 images in batches of 2048
VARIANTS = {
    "1400m": "1,387,529,728 parameters",
    "480m": "480,921,088 parameters",
    "800m": "820,899,328 parameters",
    "3800m": "3,822,488,064 parameters",
}
"""Names, the default first, for `rqjax configs`."""


def get_config(variant: str = "1400m") -> Config:
    if variant not in MODELS:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(MODELS)}")
    # microbatches of 512 or 256 images: 8 or more a device up to 64 or 32 devices
    accumulate = 8 if variant == "3800m" else 4
    return Config(
        stage=PredictConfig(model=MODELS[variant], tokenizer=RQVAEConfig(), accumulate=accumulate, top_p=0.92),
        data=DataConfig(name="folder", resize=256, size=256, batch=2048, crop="random", flip=True, threads=16),
        steps=100 * EPOCH,
        save_every=2 * EPOCH,
    )
