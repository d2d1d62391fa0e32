"""RQ-VAE and RQ-Transformer as Lee et al. (2022) published them."""

import dataclasses

from rqjax.official.recipes_shared import adam, adamw
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.rq.vae import RQVAEConfig
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig

GPUS = 4
"""A100 that the published models were trained on (8 for one of 1.4B); each held 32 images, or 8 of the largest."""
FFHQ = 60_000
"""Training images of FFHQ in the split of VQ-GAN, 10,000 are for validation."""
LSUN = {"cat": 1_657_266, "church": 126_227, "bedroom": 3_033_042}
"""Training images; the release also validates on them."""


def rqvae(codes: int = 16384, attention: int = 8) -> RQVAEConfig:
    """The RQ-VAE of every published model: 256x256 pixels as 8x8x4 codes (100.2M trained parameters)."""
    return RQVAEConfig(
        resolution=256,
        ch=128,
        ch_mult=(1, 1, 2, 2, 4, 4),
        num_res_blocks=2,
        attn_resolutions=(attention,),
        z_channels=256,
        embed_dim=256,
        codes=(codes,),
        depth=4,
        code_shape=(8, 8),
        decay=(0.99,),
        restart_threshold=1.0,
        update_once_per_step=False,
        commitment_weight=0.25,
        dtype="float32",
        remat=True,
    )


def autoencode(model: RQVAEConfig, learning_rate: float = 4e-5, warmup_steps: int = 0) -> AutoencodeConfig:
    """How the release trains an RQ-VAE: its discriminator's statistics are those of each GPU's 32 images."""
    optimizer = adam(learning_rate=learning_rate, warmup_steps=warmup_steps, schedule="constant")
    return AutoencodeConfig(
        model=model,
        reconstruction="mse",
        perceptual_weight=1.0,
        vgg16_path="",
        vgg16_verify=True,
        lpips_dtype="float32",
        gan="hinge",
        disc_weight=0.75,
        disc_weight_max=0.0,
        disc_loss_weight=0.75,
        disc_start=0,
        adaptive=True,
        disc_ndf=64,
        disc_num_layers=2,
        disc_groups=4,
        optimizer=optimizer,
        discriminator_optimizer=dataclasses.replace(optimizer),
        ema_decay=0.0,
        codebook_updates_per_step=1,
    )


def rqtransformer(
    dim: int, body: int, head: int, *, codes: int = 16384, classes: int = 0, text: int = 0, dropout: float = 0.1
) -> RQTransformerConfig:
    """A published RQ-Transformer: `dim` features in heads of 64; with `text`, so many tokens of a vocabulary of 16384.

    bfloat16 for the release's float16.
    """
    return RQTransformerConfig(
        code_shape=(8, 8),
        depth=4,
        vocab=(codes,),
        dim=dim,
        input_dim=256,
        body_layers=body,
        head_layers=head,
        body_heads=dim // 64,
        head_heads=dim // 64,
        classes=classes,
        text_vocab=16384 if text else 0,
        text_length=text,
        input_emb_vqvae=True,
        head_emb_vqvae=True,
        cumsum_depth_ctx=True,
        shared_tok_emb=True,
        shared_cls_emb=True,
        embedding_dropout=0.0,
        dropout=dropout,
        attention_dropout=0.0,
        sigmoid_gelu=False,
        dtype="bfloat16",
        remat=True,
        target="soft",
        temperature=0.5,
        stochastic=True,
        loss_chunk=32,  # each chunk gathers the classifier and sums its gradient over the devices
        image_loss_weight=0.9 if text else 1.0,
        text_loss_weight=0.1 if text else 0.0,
    )


def predict(model: RQTransformerConfig, tokenizer: RQVAEConfig | None, accumulate: int = 1) -> PredictConfig:
    """How every published RQ-Transformer is trained: AdamW, a cosine to 0 without warm-up, gradients of norm 1."""
    return PredictConfig(
        model=model,
        tokenizer=tokenizer,
        tokenizer_path="",
        optimizer=adamw(weight_decay=1e-4, clip_norm=1.0),
        accumulate=accumulate,
    )
