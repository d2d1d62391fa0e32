"""Small RQ-Transformers and their tokenizers: our own, and those of the golden cases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from rqjax.official.convert import import_model
from rqjax.official.rqtransformer import rqtransformer_config
from rqjax.quantize.config import QuantizerConfig
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.patches import PatchRQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.rq.vae import RQVAE

CASES = ("class", "text", "unconditional_own_embeddings")


def small_config(**changes) -> RQTransformerConfig:
    config = RQTransformerConfig(
        code_shape=(2, 3),
        depth=3,
        codebook_size=(16,),
        dim=32,
        input_dim=8,
        body_layers=2,
        head_layers=2,
        body_heads=4,
        head_heads=2,
        classes=5,
        dropout=0.0,
        dtype="float32",
        remat=False,
        loss_chunk=4,
    )
    return dataclasses.replace(config, **changes)


def tokenizer_config(**changes) -> RQVAEConfig:
    """A small RQ-VAE; `changes` are fields of its configuration or of its quantizer's."""
    names = {field.name for field in dataclasses.fields(QuantizerConfig)}
    own = {name: value for name, value in changes.items() if name in names}
    return RQVAEConfig(
        quantizer=QuantizerConfig(**{"codebook_size": (16,), "depth": 3} | own),
        **{
            **{"resolution": 8, "ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1, "attn_resolutions": ()},
            **{"z_channels": 8, "embed_dim": 8, "code_shape": (4, 4), "remat": False},
            **{name: value for name, value in changes.items() if name not in names},
        },
    )


def patch_config(**changes) -> PatchRQVAEConfig:
    """A small RQ-VAE of patches: 4x4 codes of 4x4 patches."""
    changes = {"quantizer": QuantizerConfig(codebook_size=(16,), depth=3)} | changes
    sizes = {"resolution": 8, "patch_size": 2, "dim": 16, "layers": 2, "heads": 2, "embed_dim": 8, "code_shape": (4, 4)}
    return PatchRQVAEConfig(**sizes | changes)


def make_quantizer(sizes, dim, depth=3):
    return QuantizerConfig(codebook_size=sizes, depth=depth).init(jax.random.key(9), dim)


def with_embed(quantizer, embed):
    """A quantizer of one codebook with other vectors in it."""
    book = dataclasses.replace(quantizer.codebooks[0], embed=jnp.asarray(embed))
    return dataclasses.replace(quantizer, codebooks=(book,))


def tokenizer_with(quantizer) -> RQVAE:
    """A tokenizer of which nothing but the quantizer is there: all that sampling reads."""
    return dataclasses.replace(jax.eval_shape(tokenizer_config().init, jax.random.key(0)), quantizer=quantizer)


def strong(model, scale=4.0):
    """A model whose weights are large enough for every part to matter."""
    return dataclasses.replace(model, network=jax.tree.map(lambda x: scale * x if x.ndim > 1 else x, model.network))


def random_codes(sizes, shape=(2, 2, 3)):
    drawn = [np.random.default_rng(d).integers(0, size, shape) for d, size in enumerate(sizes)]
    return jnp.asarray(np.stack(drawn, -1), jnp.int32)


def load(golden, name):
    """A golden case, our model of it, and its tokenizer's quantizer (any, if it reads no vectors)."""
    case = golden(f"rq/rqtransformer_{name}")
    config = rqtransformer_config(case.meta["config"])
    config = dataclasses.replace(config, image_loss_weight=1.0, text_loss_weight=0.1)
    quantizer = make_quantizer((4,), 4, config.depth)
    if rqvae := case.meta["rqvae"]:
        size, dim = rqvae["hparams"]["n_embed"], rqvae["hparams"]["embed_dim"]
        embed = jnp.asarray(case.array("quantizer.codebooks.0.weight", (size + 1, dim)))[:size]
        quantizer = with_embed(make_quantizer((size,), dim, config.depth), embed)
    labels = jnp.asarray(case.data["cond"], jnp.int32)
    state_dict = case.state_dict()
    state_dict.pop("tok_emb.offsets", None)
    model = import_model(state_dict, config)
    # the rule for weights filled this integer buffer with fractions, which PyTorch cut to 0
    model.network.offsets = (0,) * config.depth
    return case, model, quantizer, labels if config.text_vocab else labels[:, 0]


def logits_of(model, quantizer, codes, labels):
    """Teacher-forced logits of every code, and of the text tokens from the second on (none without a text)."""
    flat = rearrange(codes, "b h w d -> b (h w) d")
    text, outputs = model.network(model.condition.ids(labels), flat, quantizer, None)
    logits = rearrange(model.network.classifier(outputs), "b (h w) d k -> b h w d k", h=codes.shape[1])
    if not model.config.text_vocab:
        return logits, jnp.zeros((codes.shape[0], 0, 0))
    return logits, model.network.cond_classifier(text[:, :, None])[:, :, 0]
