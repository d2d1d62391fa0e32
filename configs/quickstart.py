"""Fashion-MNIST at 32x32 on two CPU cores, in minutes: the smallest runs that show everything.

Variants: `rqvae` and `rqtransformer`, `dqvae` and `dqtransformer` (a prior needs --config.stage.tokenizer_path).
Commands, for both of a family:
    rqjax quickstart --out runs/quickstart
    rqjax quickstart --model dq --out runs/dq
One alone:
    rqjax train --config quickstart:rqvae --workdir runs/a
The tokenizers are transformers over patches of 4x4 pixels. RQ: an image becomes a 4x4 map of stacks of 4 codes out of
512. DQ: of its 4x4 regions the 8 with the highest entropy get 4 codes out of 256, the others one: 40 codes;
`dqvae-fixed` gives 4 to every other region instead, whatever is there, to compare with. `rqvae-conv` and `dqvae-conv`
have the papers' convolutions. `classifier` tells the classes apart.
"""

import dataclasses

from rqjax.data import DataConfig
from rqjax.dq.convolutions import DQVAEConfig
from rqjax.dq.patches import PatchDQVAEConfig
from rqjax.dq.routing import RoutingConfig
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.errors import InputError
from rqjax.interface import TokenizerConfig
from rqjax.nets.classifier import ClassifierConfig
from rqjax.optim import OptimizerConfig
from rqjax.quantize.config import QuantizerConfig
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.patches import PatchRQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run.config import Config
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.classify import ClassifyConfig
from rqjax.stages.predict import PredictConfig

CLASSES = 10
RQVAE = PatchRQVAEConfig(
    resolution=32,
    patch_size=4,
    dim=128,
    layers=2,
    heads=4,
    sigmoid_gelu=True,
    embed_dim=16,  # a position has 2x2 patches, so its code vectors have 64 dimensions
    code_shape=(4, 4),
    # a short run: averages of the last 30 steps, not of the last 100
    quantizer=QuantizerConfig(codebook_size=(512,), decay=(0.97,)),
)
RQVAE_CONV = RQVAEConfig(
    resolution=32,
    ch=16,
    ch_mult=(1, 2, 4, 4),
    num_res_blocks=1,
    attn_resolutions=(),
    z_channels=32,
    embed_dim=32,
    code_shape=(4, 4),
    quantizer=QuantizerConfig(codebook_size=(128,)),
    remat=False,
)
RQTRANSFORMER = RQTransformerConfig(
    code_shape=(4, 4),
    codebook_size=(512,),
    dim=128,
    input_dim=64,
    body_layers=4,
    head_layers=1,
    body_heads=4,
    head_heads=4,
    classes=CLASSES,
    condition_dropout=0.1,
    dropout=0.0,
    # the papers' 0.5 is for code vectors of 256 dimensions; at 64, where distances are smaller, it drowns them
    temperature=0.01,
    loss_chunk=16,
    dtype="float32",
    remat=False,
)
ENTROPY = RoutingConfig(
    # exactly half of each image's regions are fine, those with the highest entropy
    router="entropy",
    exact_ratio=True,
    budget_weight=0.0,
    groups=0,
    layers=1,
    entropy_bins="-1_1",
)
DQVAE = PatchDQVAEConfig(
    resolution=32,
    patch_size=4,
    dim=128,
    layers=2,
    heads=4,
    sigmoid_gelu=True,
    embed_dim=32,
    codebook_size=256,
    decay=0.97,
    routing=ENTROPY,
)
DQVAE_FIXED = dataclasses.replace(DQVAE, routing=RoutingConfig(router="checkerboard", budget_weight=0.0))
DQVAE_CONV = DQVAEConfig(
    resolution=32,
    ch=16,
    ch_mult=(1, 2, 4, 4),
    num_res_blocks=1,
    attn_resolutions=(),
    decoder_ch=16,
    decoder_ch_mult=(1, 2, 4),
    decoder_num_res_blocks=1,
    decoder_attn_resolutions=(),
    z_channels=32,
    embed_dim=32,
    codebook_size=256,
    routing=ENTROPY,
)
DQTRANSFORMER = DQTransformerConfig(
    grids=(4, 8),
    codebook_size=256,
    classes=CLASSES,
    condition_dropout=0.1,
    order="region-first",
    dim=128,
    heads=4,
    position_layers=1,
    content_layers=3,
    block_size=96,
    embedding_dropout=0.0,
    dropout=0.0,
    attention_dropout=0.0,
    # every image has 40 codes, with starts and ends 46 tokens at most: two fill a row
    pack=True,
    pack_groups=0,
    row_length=96,
    rows_per_image=0.5,
    loss_chunk=96,
    dtype="float32",
    remat=False,
)
VARIANTS = {
    "rqvae": "a 4x4 map of stacks of 4 codes",
    "rqtransformer": "the prior of these codes",
    "dqvae": "regions of one code or four",
    "dqtransformer": "the prior of these codes",
    "dqvae-fixed": "four codes for every other region",
    "rqvae-conv": "a 4x4 map of stacks of 4 codes, by convolutions",
    "dqvae-conv": "regions of one code or four, by convolutions",
    "classifier": "the class of an image",
}
"""Names, the default first, for `rqjax configs`."""


def get_config(variant: str = "rqvae") -> Config:
    makers = {
        "rqvae": lambda: _tokenizer(RQVAE, _adamw(), steps=240),
        "rqtransformer": lambda: _prior(RQTRANSFORMER, RQVAE, steps=480),
        "dqvae": lambda: _tokenizer(DQVAE, _adamw(), steps=240, batch=16),
        "dqtransformer": lambda: _prior(DQTRANSFORMER, DQVAE, steps=620, batch=16),
        "dqvae-fixed": lambda: _tokenizer(DQVAE_FIXED, _adamw(), steps=240, batch=16),
        "rqvae-conv": lambda: _tokenizer(RQVAE_CONV, _adam(1e-3), steps=240),
        "dqvae-conv": lambda: _tokenizer(DQVAE_CONV, _adam(1e-3), steps=200),
        "classifier": _classifier,
    }
    if variant not in makers:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(makers)}")
    return makers[variant]()


def _tokenizer(model: TokenizerConfig, optimizer: OptimizerConfig, steps: int, batch: int = 32) -> Config:
    stage = AutoencodeConfig(
        model=model,
        perceptual_weight=0.0,
        disc_weight=0.0,
        disc_loss_weight=0.0,
        disc_ndf=32,
        disc_groups=1,
        optimizer=optimizer,
        discriminator_optimizer=_adam(1e-3),
    )
    half = steps // 2
    return Config(stage=stage, data=_data(batch), steps=steps, log_every=20, preview_every=half, save_every=half)


def _prior(
    model: RQTransformerConfig | DQTransformerConfig, tokenizer: TokenizerConfig, steps: int, batch: int = 32
) -> Config:
    stage = PredictConfig(model=model, tokenizer=tokenizer, preview_count=10, top_p=0.9, guidance=3.0)
    stage.optimizer.learning_rate, stage.optimizer.warmup_steps = 2e-3, 20
    half = steps // 2
    return Config(stage=stage, data=_data(batch), steps=steps, log_every=25, preview_every=half, save_every=half)


def _classifier() -> Config:
    stage = ClassifyConfig(model=ClassifierConfig(width=24, classes=CLASSES), optimizer=_adam(4e-3))
    return Config(stage=stage, data=_data(128), steps=400, log_every=50, preview_every=400, save_every=400)


def _adam(learning_rate: float) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=learning_rate, warmup_steps=20, schedule="cosine")


def _adamw() -> OptimizerConfig:
    return OptimizerConfig(
        name="adamw", learning_rate=2e-3, warmup_steps=30, schedule="cosine", b1=0.9, b2=0.95, clip_norm=1.0
    )


def _data(batch: int) -> DataConfig:
    return DataConfig(name="fashion_mnist", resize=32, size=32, batch=batch, threads=2)
