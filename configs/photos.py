"""One's own photographs at 64, 128 or 256 pixels, on one GPU or eight TPU chips: between the quickstart and the papers.

FOLDER holds images, or a sub-folder of them for each class; a prior has as many classes as the data, or none with
--config.stage.model.classes=0. RQ: 8x8x4 codes at each size. DQ: half of the regions of an image get four codes.
    rqjax train --config photos:64 --workdir runs/photos --config.data.path=FOLDER
    rqjax train --config photos:64-prior --workdir runs/prior --config.data.path=FOLDER \
        --config.stage.tokenizer_path=runs/photos
    rqjax sample --prior runs/prior --label CLASS --count 8 --out x.png
Encoders and decoders are transformers over patches: at 128 and 256 pixels of ViT-VQGAN's size Small, with its optimizer
(Yu et al. 2022), at 64 smaller. Code vectors have 256 dimensions, as the published ones, whose temperature of 0.5 the
RQ priors keep. 256-prior is the model of ffhq_rqtransformer, 128-prior has half its width and half its body. Nobody has
published such a pair, so no result is known.
On eight v5e chips of 15.75 GiB (`rqjax compile --quick --config photos:VARIANT --topology v5e:2x4`); hours are
those of all steps at the rate that its bound allows, which no run reaches and nobody has measured:
    variant       batch   peak a chip   images/s at most   hours at least
    64               64      0.19 GiB             30,401             0.01
    64-prior         64      0.31 GiB             10,070             0.04
    64-dq            64      0.64 GiB              3,322             0.11
    64-dq-prior      64      0.79 GiB              3,013             0.12
    128             128      0.36 GiB              2,379             1.5
    128-prior       128      0.42 GiB              4,209             0.8
    256             128      0.43 GiB              2,366             1.5
    256-prior       128      1.19 GiB              1,371             2.6
Tokenizers learn by pixels alone, which needs no download and blurs. Sharper, with ViT-VQGAN's weights, by
    --config.stage.perceptual_weight=0.1 --config.stage.vgg16_path=vgg16-397923af.pth --config.stage.disc_weight=0.1
"""

import dataclasses

from rqjax.data import DataConfig
from rqjax.dq.patches import PatchDQVAEConfig
from rqjax.dq.routing import RoutingConfig
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.errors import InputError
from rqjax.optim import OptimizerConfig
from rqjax.quantize.config import QuantizerConfig
from rqjax.rq.patches import PatchRQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run.config import Config
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig

VARIANTS = {
    "64": "RQ-VAE, 64 pixels: 8x8x4 codes out of 1024",
    "64-prior": "RQ-Transformer of these codes",
    "64-dq": "DQ-VAE, 64 pixels: 160 codes out of 1024, one or four a region",
    "64-dq-prior": "DQ-Transformer of these codes",
    "128": "RQ-VAE, 128 pixels: 8x8x4 codes out of 2048",
    "128-prior": "RQ-Transformer of these codes",
    "256": "RQ-VAE, 256 pixels: 8x8x4 codes out of 2048",
    "256-prior": "RQ-Transformer of these codes",
}
"""Names, the default first, for `rqjax configs`."""
TINY = {"dim": 256, "layers": 4, "heads": 4}
SMALL = {"dim": 512, "layers": 8, "heads": 8, "dtype": "bfloat16", "remat": True}
# the more detailed half of an image's regions is fine, whatever the data
HALF = RoutingConfig(router="entropy", exact_ratio=True, budget_weight=0.0, groups=0, layers=1, entropy_bins="-1_1")
BOOK = QuantizerConfig(codebook_size=(2048,))
TOKENIZERS = {
    # embed_dim makes code vectors of 256 dimensions: those of a patch, or of 2x2 patches
    "64": PatchRQVAEConfig(
        resolution=64, patch_size=8, **TINY, embed_dim=256, quantizer=QuantizerConfig(codebook_size=(1024,))
    ),
    "64-dq": PatchDQVAEConfig(resolution=64, patch_size=4, **TINY, routing=HALF),
    "128": PatchRQVAEConfig(resolution=128, patch_size=8, **SMALL, embed_dim=64, quantizer=BOOK),
    "256": PatchRQVAEConfig(resolution=256, patch_size=16, **SMALL, embed_dim=64, quantizer=BOOK),
}
PRIORS = {
    "64-prior": RQTransformerConfig(dim=256, body_layers=6, head_layers=2, classes=1, dtype="float32", remat=False),
    "64-dq-prior": DQTransformerConfig(
        dim=256, heads=4, position_layers=2, content_layers=6, block_size=256, classes=1, dtype="float32", remat=False
    ),
    "128-prior": RQTransformerConfig(dim=512, body_layers=12, head_layers=4, classes=1),
    "256-prior": RQTransformerConfig(dim=1024, body_layers=24, head_layers=4, classes=1),
}
BATCH = {64: 64, 128: 128, 256: 128}
WARMUP = {64: 100, 128: 2_000, 256: 2_000}
"""Steps; by the resolution."""


def get_config(variant: str = "64") -> Config:
    if variant not in VARIANTS:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(VARIANTS)}")
    tokenizer = TOKENIZERS[variant.removesuffix("-prior")]
    size = tokenizer.resolution
    return Config(
        stage=_prior(PRIORS[variant], tokenizer) if variant in PRIORS else _tokenizer(tokenizer),
        data=DataConfig(name="folder", resize=size * 9 // 8, size=size, batch=BATCH[size], crop="random", flip=True),
        steps=20_000 if size == 64 else 100_000,
        eval_every=1_000,
        eval_batches=20,
    )


def _tokenizer(model: PatchRQVAEConfig | PatchDQVAEConfig) -> AutoencodeConfig:
    small = model.resolution == 64
    return AutoencodeConfig(
        model=model,
        perceptual_weight=0.0,
        disc_weight=0.0,
        disc_groups=1,
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=4e-4 if small else 1e-4,
            b1=0.9,
            b2=0.99,
            weight_decay=1e-4,
            clip_norm=1.0,
            warmup_steps=WARMUP[model.resolution],
            schedule="cosine",
        ),
        discriminator_optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=WARMUP[model.resolution]),
        ema_decay=0.999,
    )


def _prior(
    model: RQTransformerConfig | DQTransformerConfig, tokenizer: PatchRQVAEConfig | PatchDQVAEConfig
) -> PredictConfig:
    model = dataclasses.replace(model, **model.following(tokenizer))
    stage = PredictConfig(model=model, tokenizer=tokenizer, ema_decay=0.999)
    stage.optimizer.warmup_steps = WARMUP[tokenizer.resolution]
    return stage
