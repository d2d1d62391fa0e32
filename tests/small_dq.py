"""Small DQ-Transformers and their tokenizers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rqjax.dq.convolutions import DQVAEConfig
from rqjax.dq.patches import PatchDQVAEConfig
from rqjax.dq.routing import RoutingConfig, route
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.quantize.dynamic import Codes


def tokenizer_config(grains: int = 2, **routing) -> DQVAEConfig:
    settings = {"router": "feature", "exact_ratio": False, "ratios": (0.25,) * (grains - 1), "budget_weight": 1.0}
    settings |= {"groups": 4, "layers": 2, "activation": "silu", "entropy_bins": "-1_1", "thresholds": ()}
    return DQVAEConfig(
        resolution=8,
        ch=8,
        ch_mult=(1,) * grains,
        num_res_blocks=1,
        attn_resolutions=(),
        decoder_ch=8,
        decoder_ch_mult=(1,),
        decoder_num_res_blocks=1,
        decoder_attn_resolutions=(),
        z_channels=8,
        embed_dim=4,
        codebook_size=16,
        grains=grains,
        routing=RoutingConfig(**settings | routing),
    )


def patch_config(grains: int = 2, **changes) -> PatchDQVAEConfig:
    """As tokenizer_config, with networks of patches."""
    like = tokenizer_config(grains)
    sizes = {"resolution": 8, "patch_size": 2, "dim": 16, "layers": 2, "heads": 2, "embed_dim": 4, "codebook_size": 16}
    return PatchDQVAEConfig(grains=grains, routing=like.routing, **sizes | changes)


def small_config(**changes) -> DQTransformerConfig:
    config = DQTransformerConfig(
        grids=(2, 4),
        codebook_size=8,
        classes=3,
        dim=16,
        heads=2,
        position_layers=1,
        content_layers=1,
        block_size=24,
        embedding_dropout=0.0,
        dropout=0.0,
        attention_dropout=0.0,
        dtype="float32",
        remat=False,
        row_length=40,
        loss_chunk=7,
    )
    return dataclasses.replace(config, **changes)


def strong(model, scale=8.0):
    """A model whose weights are large enough for every part to matter, places included."""

    def grow(path, x):
        if "pos_emb" in jax.tree_util.keystr(path):
            return jax.random.normal(jax.random.key(7), x.shape)
        return scale * x if x.ndim > 1 else x

    return dataclasses.replace(model, network=jax.tree_util.tree_map_with_path(grow, model.network))


def random_codes(layout, shares, seed=0):
    """Images in which about these shares of the regions are of each grain, in the form that tokenizers give them."""
    draw, fine = np.random.default_rng(seed), layout.grids[-1]
    images = []
    for share in shares:
        grain = draw.choice(len(layout.grids), (layout.grids[0],) * 2, p=share)
        codes = np.zeros((fine, fine), np.int32)
        whole = grain.repeat(fine // layout.grids[0], 0).repeat(fine // layout.grids[0], 1)
        for g, grid in enumerate(layout.grids):
            own = draw.integers(0, layout.codebook_size, (grid, grid)).repeat(fine // grid, 0).repeat(fine // grid, 1)
            codes = np.where(whole == g, own, codes)
        images.append((codes, grain))
    codes, grain = (np.stack(x) for x in zip(*images, strict=True))
    return Codes(codes=jnp.asarray(codes, jnp.int32), grain=jnp.asarray(grain, jnp.int32))


def logits_of(model, codes, labels):
    """Teacher-forced logits of the position and the content that follow each token, one image a row.

    They mean nothing behind the last token of an image; `model.rows` says where that is.
    """
    rows = model.rows(codes, labels)
    positions, contents = model.network(rows.tokens, rows.image, texts=rows.texts)
    return model.network.position_head(positions), model.network.content_head(contents)


def routed_by(model, image):
    """An image after the choice of grains, in evaluation mode."""
    return route(model.config.routing, model.network.encoder, image, None)
