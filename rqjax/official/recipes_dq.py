"""DQ-VAE and DQ-Transformer as Huang et al. (2023) published them."""

import dataclasses

from rqjax.dq.routing import RoutingConfig
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.dq.vae import DQVAEConfig
from rqjax.official.recipes_shared import IMAGENET, adam, adamw
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig

BATCH = 240
"""8 GPUs with 30 images each."""
MEDIAN_ENTROPY = 1.6777750253677368
"""Of 16x16 patches of ImageNet's training images, by the release's table (bins "0_1")."""
MEDIAN_ENTROPY_FFHQ = 1.545932412147522
"""The same of FFHQ's."""


def dqvae(routing: RoutingConfig) -> DQVAEConfig:
    """The DQ-VAE of the release: 256x256 pixels as 16x16 regions of 2 grains, or 8x8 of 3."""
    grains = len(routing.ratios) + 1
    return DQVAEConfig(
        resolution=256,
        ch=128,
        ch_mult=(1, 1, 2, 2, 4) if grains == 2 else (1, 1, 2, 2, 4, 4),
        num_res_blocks=2,
        attn_resolutions=(16, 32) if grains == 2 else (8, 16, 32),
        decoder_ch=128,
        decoder_ch_mult=(1, 1, 2, 2),
        decoder_num_res_blocks=2,
        decoder_attn_resolutions=(32,),
        position="fourier+learned",
        window_size=2,
        z_channels=256,
        embed_dim=256,
        codes=1024,
        decay=0.99,
        restart_threshold=1.0,
        commitment_weight=0.25,
        grains=grains,
        routing=routing,
        dtype="float32",
        remat=False,
    )


def routing(ratios: tuple[float, ...], budget_weight: float, threshold: float | None = None) -> RoutingConfig:
    """A published router: by features under a budget, or by the entropy of patches above a threshold."""
    entropy = threshold is not None
    return RoutingConfig(
        router="entropy" if entropy else "feature",
        exact_ratio=False,
        ratios=ratios,
        budget_weight=budget_weight,
        groups=0 if entropy else 32,
        layers=2,
        activation="silu",
        entropy_bins="0_1",
        thresholds=(threshold,) if threshold is not None else (),
    )


def autoencode(model: DQVAEConfig, warmup_epochs: float = 0.1) -> AutoencodeConfig:
    """How the release trains a DQ-VAE on 8 GPUs: a rate of 4.5e-6 for each image of the batch."""
    warmup = round(IMAGENET / BATCH * warmup_epochs)
    optimizer = adam(learning_rate=BATCH * 4.5e-6, warmup_steps=warmup, schedule="clipped_cosine")
    return AutoencodeConfig(
        model=model,
        reconstruction="l1",
        perceptual_weight=1.0,
        vgg16_path="",
        vgg16_verify=True,
        lpips_dtype="float32",
        gan="hinge",
        disc_weight=1.0,
        disc_weight_max=0.75,
        disc_loss_weight=1.0,
        disc_start=0,
        adaptive=True,
        disc_ndf=64,
        disc_num_layers=3,
        disc_groups=8,
        optimizer=optimizer,
        discriminator_optimizer=dataclasses.replace(optimizer),
        ema_decay=0.0,
        codebook_updates_per_step=1,  # the release has 2, at the price of a second forward pass
    )


def dqtransformer(classes: int) -> DQTransformerConfig:
    """The published DQ-Transformer p6c18, for the dual tokenizers."""
    return DQTransformerConfig(
        grids=(16, 32),
        codebook_size=1024,
        classes=classes,
        order="row-first",
        dim=1024,
        heads=8,
        position_layers=6,
        content_layers=18,
        block_size=2048,
        embedding_dropout=0.1,
        dropout=0.1,
        attention_dropout=0.1,
        dtype="bfloat16",
        remat=True,
        pack=False,
        row_length=0,
        rows_per_image=1.0,
        pack_groups=1,
        loss_chunk=128,
        position_loss_weight=1.0,
        content_loss_weight=1.0,
    )


def predict(model: DQTransformerConfig, tokenizer: DQVAEConfig) -> PredictConfig:
    """How the release trains a DQ-Transformer: AdamW at 5e-4, a cosine to 0, decay of linear weights alone."""
    optimizer = adamw(weight_decay=0.01, clip_norm=0.0)
    return PredictConfig(model=model, tokenizer=tokenizer, tokenizer_path="", optimizer=optimizer)
