"""Fashion-MNIST at 32x32 on two CPU cores, in minutes: the smallest run that shows everything.

Variants `rqvae`, `rqtransformer` (needs --config.stage.tokenizer_path) and `classifier` (the judge of the samples).
Command: `rqjax quickstart --out runs/quickstart` trains all three; one alone:
    rqjax train --config configs/quickstart.py:rqvae --workdir runs/a
An image becomes a 4x4 map of stacks of 4 codes out of 128.
"""

from rqjax.config import Config
from rqjax.data import DataConfig
from rqjax.errors import InputError
from rqjax.models.classifier import ClassifierConfig
from rqjax.models.rqtransformer import RQTransformerConfig
from rqjax.models.rqvae import RQVAEConfig
from rqjax.optim import OptimizerConfig
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.classify import ClassifyConfig
from rqjax.stages.predict import PredictConfig

CLASSES = 10


def get_config(variant: str = "rqvae") -> Config:
    if variant == "rqvae":
        return _rqvae()
    if variant == "rqtransformer":
        return _rqtransformer()
    if variant == "classifier":
        return _classifier()
    raise InputError(f"variant {variant!r}: expected rqvae, rqtransformer or classifier")


def _rqvae() -> Config:
    stage = AutoencodeConfig(
        model=tokenizer(),
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
        optimizer=adam(1e-3),
        discriminator_optimizer=adam(1e-3),
        ema_decay=0.0,
        codebook_updates_per_step=1,
    )
    return Config(stage=stage, data=data(32), steps=500, log_every=25, preview_every=250, save_every=250)


def tokenizer() -> RQVAEConfig:
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


def _rqtransformer() -> Config:
    model = RQTransformerConfig(
        code_shape=(4, 4),
        depth=4,
        vocab=(128,),
        dim=128,
        input_dim=32,
        body_layers=4,
        head_layers=2,
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
        model=model, tokenizer=tokenizer(), tokenizer_path="", optimizer=optimizer, preview_count=10, top_p=0.95
    )
    return Config(stage=stage, data=data(64), steps=600, log_every=25, preview_every=300, save_every=300)


def _classifier() -> Config:
    stage = ClassifyConfig(model=ClassifierConfig(width=16, classes=CLASSES), optimizer=adam(2e-3))
    return Config(stage=stage, data=data(128), steps=400, log_every=50, preview_every=400, save_every=400)


def adam(learning_rate: float) -> OptimizerConfig:
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


def data(batch: int) -> DataConfig:
    return DataConfig(name="fashion_mnist", resize=32, size=32, batch=batch, threads=2)
