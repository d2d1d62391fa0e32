"""Fashion-MNIST at 32x32 on two CPU cores, in minutes: the smallest runs that show everything.

Variants: `rqvae` and `rqtransformer`, `dqvae` and `dqtransformer` (a prior needs --config.stage.tokenizer_path), and
`classifier`, the judge of the samples. Commands, for three of them each:
    rqjax quickstart --out runs/quickstart
    rqjax quickstart --model dq --out runs/dq
One alone:
    rqjax train --config configs/quickstart.py:rqvae --workdir runs/a
RQ: an image becomes a 4x4 map of stacks of 4 codes out of 128. DQ: of its 4x4 regions the 8 with the highest entropy
get 4 codes out of 256, the others one: 40 codes.
"""

from rqjax.data.pipeline import DataConfig
from rqjax.dq.routing import RoutingConfig
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.dq.vae import DQVAEConfig
from rqjax.errors import InputError
from rqjax.nets.classifier import ClassifierConfig
from rqjax.optim import OptimizerConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.rq.vae import RQVAEConfig
from rqjax.run.config import Config
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.classify import ClassifyConfig
from rqjax.stages.predict import PredictConfig

CLASSES = 10


def get_config(variant: str = "rqvae") -> Config:
    makers = {
        "rqvae": lambda: _tokenizer(rqvae(), steps=240),
        "rqtransformer": lambda: _prior(_rqtransformer(), rqvae(), steps=480),
        "dqvae": lambda: _tokenizer(dqvae(), steps=200),
        "dqtransformer": lambda: _prior(_dqtransformer(), dqvae(), steps=420),
        "classifier": _classifier,
    }
    if variant not in makers:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(makers)}")
    return makers[variant]()


def _tokenizer(model: RQVAEConfig | DQVAEConfig, steps: int) -> Config:
    stage = AutoencodeConfig(
        model=model,
        reconstruction="mse",
        perceptual_weight=0.0,
        vgg16_path="",
        vgg16_verify=True,
        lpips_dtype="float32",
        gan="hinge",
        disc_weight=0.0,
        disc_weight_max=0.0,
        disc_loss_weight=0.0,
        disc_start=0,
        adaptive=True,
        disc_ndf=32,
        disc_num_layers=2,
        disc_groups=1,
        optimizer=_adam(1e-3),
        discriminator_optimizer=_adam(1e-3),
        ema_decay=0.0,
        codebook_updates_per_step=1,
    )
    return Config(
        stage=stage, data=_data(32), steps=steps, log_every=20, preview_every=steps // 2, save_every=steps // 2
    )


def _prior(
    model: RQTransformerConfig | DQTransformerConfig, tokenizer: RQVAEConfig | DQVAEConfig, steps: int
) -> Config:
    optimizer = OptimizerConfig(
        name="adamw",
        learning_rate=2e-3,
        b1=0.9,
        b2=0.95,
        weight_decay=1e-4,
        clip_norm=1.0,
        warmup_steps=20,
        schedule="cosine",
        min_learning_rate=0.0,
    )
    stage = PredictConfig(
        model=model, tokenizer=tokenizer, tokenizer_path="", optimizer=optimizer, preview_count=10, top_p=0.5
    )
    return Config(
        stage=stage, data=_data(32), steps=steps, log_every=25, preview_every=steps // 2, save_every=steps // 2
    )


def rqvae() -> RQVAEConfig:
    return RQVAEConfig(
        resolution=32,
        ch=16,
        ch_mult=(1, 2, 4, 4),
        num_res_blocks=1,
        attn_resolutions=(),
        z_channels=32,
        embed_dim=32,
        codes=(128,),
        depth=4,
        code_shape=(4, 4),
        decay=(0.99,),
        restart_threshold=1.0,
        update_once_per_step=False,
        commitment_weight=0.25,
        dtype="float32",
        remat=False,
    )


def _rqtransformer() -> RQTransformerConfig:
    return RQTransformerConfig(
        code_shape=(4, 4),
        depth=4,
        vocab=(128,),
        dim=96,
        input_dim=32,
        body_layers=4,
        head_layers=1,
        body_heads=4,
        head_heads=4,
        classes=CLASSES,
        text_vocab=0,
        text_length=1,
        input_emb_vqvae=True,
        head_emb_vqvae=True,
        cumsum_depth_ctx=True,
        shared_tok_emb=True,
        shared_cls_emb=True,
        embedding_dropout=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        sigmoid_gelu=False,
        dtype="float32",
        remat=False,
        target="soft",
        # the papers' 0.5 is for code vectors of 256 dimensions; at 32, where distances are smaller, it drowns them
        temperature=0.02,
        stochastic=True,
        loss_chunk=16,
        image_loss_weight=1.0,
        text_loss_weight=0.0,
    )


def dqvae() -> DQVAEConfig:
    return DQVAEConfig(
        resolution=32,
        ch=16,
        ch_mult=(1, 2, 4, 4),
        num_res_blocks=1,
        attn_resolutions=(),
        decoder_ch=16,
        decoder_ch_mult=(1, 2, 4),
        decoder_num_res_blocks=1,
        decoder_attn_resolutions=(),
        position="fourier+learned",
        window_size=2,
        z_channels=32,
        embed_dim=32,
        codes=256,
        decay=0.99,
        restart_threshold=1.0,
        commitment_weight=0.25,
        grains=2,
        routing=RoutingConfig(
            router="entropy",
            exact_ratio=True,
            ratios=(0.5,),
            budget_weight=0.0,
            groups=0,
            layers=1,
            activation="silu",
            entropy_bins="-1_1",
            thresholds=(),
        ),
        dtype="float32",
        remat=False,
    )


def _dqtransformer() -> DQTransformerConfig:
    return DQTransformerConfig(
        grids=(4, 8),
        codebook_size=256,
        classes=CLASSES,
        order="region-first",
        dim=96,
        heads=4,
        position_layers=1,
        content_layers=3,
        block_size=96,
        embedding_dropout=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        dtype="float32",
        remat=False,
        pack=False,  # exact ratios make all sequences equally long
        row_length=96,
        rows_per_image=1.0,
        pack_groups=1,
        loss_chunk=96,
        position_loss_weight=1.0,
        content_loss_weight=1.0,
    )


def _classifier() -> Config:
    stage = ClassifyConfig(model=ClassifierConfig(width=24, classes=CLASSES), optimizer=_adam(4e-3))
    return Config(stage=stage, data=_data(128), steps=400, log_every=50, preview_every=400, save_every=400)


def _adam(learning_rate: float) -> OptimizerConfig:
    return OptimizerConfig(
        name="adam",
        learning_rate=learning_rate,
        b1=0.5,
        b2=0.9,
        weight_decay=0.0,
        clip_norm=0.0,
        warmup_steps=20,
        schedule="cosine",
        min_learning_rate=0.0,
    )


def _data(batch: int) -> DataConfig:
    return DataConfig(name="fashion_mnist", resize=32, size=32, batch=batch, threads=2)
