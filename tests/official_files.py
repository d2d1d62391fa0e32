"""Official configuration files and checkpoints of tiny models, with weights by the rule of the golden cases."""

import copy
import pathlib

import jax
import numpy as np
import yaml
from flax import nnx

from rqjax.nets.discriminator import Discriminator
from rqjax.official import documents
from rqjax.official.convert import keys
from rqjax.official.discriminator import to_torch as discriminator_to_torch
from rqjax.programs import convert
from rqjax.torchfile import file
from tests.golden.deterministic import det_array

MODULES = "modules.dynamic_modules"
DDCONFIG = {
    **{"double_z": False, "z_channels": 32, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32},
    **{"ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8], "dropout": 0.0},
}
HPARAMS = {
    **{"bottleneck_type": "rq", "embed_dim": 8, "n_embed": 16, "latent_shape": [8, 8, 8], "code_shape": [8, 8, 2]},
    **{"shared_codebook": True, "decay": 0.99, "restart_unused_codes": True, "loss_type": "mse"},
    "latent_loss_weight": 0.25,
}
WARMUP = {"epoch": 1, "multiplier": 1, "buffer_epoch": 0, "min_lr": 3.0e-5, "mode": "fix"}
RQVAE = {
    "dataset": {"type": "ffhq", "transforms": {"type": "ffhq256x256"}},
    "arch": {"type": "rq-vae", "code_hier": 1, "hparams": HPARAMS, "ddconfig": DDCONFIG, "checkpointing": False},
    "optimizer": {"type": "adam", "init_lr": 3.0e-5, "weight_decay": 0.0, "betas": [0.4, 0.8], "warmup": WARMUP},
    "experiment": {"batch_size": 32, "epochs": 2, "save_ckpt_freq": 5, "test_freq": 1},
    "gan": {
        "disc": {"arch": {"in_channels": 3, "num_layers": 1, "use_actnorm": False, "ndf": 8, "spectral_norm": False}},
        "loss": {
            **{"disc_loss": "hinge", "gen_loss": "vanilla", "disc_weight": 0.5, "perceptual_weight": 1.0},
            "disc_start": 0,
        },
    },
}
RQTRANSFORMER = {
    "dataset": {"type": "ffhq", "vocab_size": 16},
    "arch": {
        **{"type": "rq-transformer", "block_size": [8, 8, 2], "embed_dim": 16, "input_embed_dim": 8},
        **{"shared_tok_emb": True, "shared_cls_emb": True, "input_emb_vqvae": True, "head_emb_vqvae": True},
        **{"cumsum_depth_ctx": True, "vocab_size_cond": 3, "block_size_cond": 1},
        "body": {"n_layer": 2, "block": {"n_head": 2}},
        "head": {"n_layer": 1, "block": {"n_head": 2}},
    },
    "loss": {"type": "soft_target_cross_entropy", "stochastic_codes": True, "temp": 0.5},
    "experiment": {"batch_size": 32, "total_batch_size": 256, "epochs": 3, "amp": True, "sample": {"top_k": 8}},
}


def _dqvae() -> dict:
    router = {"json_path": "a/entropy_thresholds_imagenet_train_patch-16.json", "fine_grain_ratito": 0.5}
    encoder = {
        **{"ch": 32, "ch_mult": [1, 1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [4], "dropout": 0.0},
        **{"resamp_with_conv": True, "in_channels": 3, "resolution": 32, "z_channels": 32, "update_router": False},
        "router_config": {"target": f"{MODULES}.RouterDual.DualGrainFixedEntropyRouter", "params": router},
    }
    decoder = {
        **{"ch": 32, "in_ch": 32, "out_ch": 3, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "resolution": 32},
        **{"attn_resolutions": [4], "latent_size": 4, "window_size": 2, "position_type": "fourier+learned"},
    }
    disc = {"target": "modules.discriminator.model.NLayerDiscriminator", "params": {"ndf": 8, "n_layers": 1}}
    loss = {"disc_start": 0, "disc_config": disc, "disc_loss": "hinge", "disc_weight": 1.0, "disc_weight_max": 0.75}
    return {
        "base_learning_rate": 4.5e-06,
        "target": "models.stage1_dynamic.dqvae_dual_entropy.DualGrainVQModel",
        "params": {
            "encoderconfig": {"target": f"{MODULES}.EncoderDual.DualGrainEncoder", "params": encoder},
            "decoderconfig": {"target": f"{MODULES}.DecoderPositional.Decoder", "params": decoder},
            "lossconfig": {
                "target": "modules.losses.vqperceptual_multidisc.VQLPIPSWithDiscriminator",
                "params": loss,
            },
            "vqconfig": {
                "target": "modules.vector_quantization.quantize2_mask.VectorQuantize2",
                "params": {"codebook_size": 8, "codebook_dim": 16},
            },
        },
    }


def _dqtransformer() -> dict:
    pads = {"content_pad_code": 8, "coarse_position_pad_code": 4, "fine_position_pad_code": 16}
    ends = {"content_eos_code": 9, "coarse_position_eos_code": 5, "fine_position_eos_code": 17}
    network = {
        **{"vocab_size": 13, "coarse_position_size": 9, "fine_position_size": 21, "segment_size": 2},
        **{"block_size": 32, "position_layer": 1, "content_layer": 2, "n_head": 2, "n_embd": 16},
        **{"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1, "activate_pad_ignore": True, **pads},
    }
    first = copy.deepcopy(_dqvae())
    first.pop("base_learning_rate")
    first["params"]["lossconfig"] = {"target": "modules.losses.vqperceptual.DummyLoss"}
    start = {
        **{"n_classes": 3, "threshold_content": 10, "threshold_coarse_position": 6, "threshold_fine_position": 18},
        **{"coarse_seg_sos": 0, "fine_seg_sos": 1},
    }
    permuter = {"coarse_hw": 2, "fine_hw": 4, "fine_position_order": "row-first", **pads, **ends}
    return {
        "learning_rate": 0.0005,
        "target": "models.stage2_dynamic.dqtransformer_class2_entropy.Dualformer",
        "params": {
            "transformer_config": {"target": f"{MODULES}.stackgpt.StackGPT", "params": network},
            "first_stage_config": first,
            "class_cond_stage_config": {
                "target": f"{MODULES}.label_provider.ClassAwareSOSProvider",
                "params": start,
            },
            "permuter_config": {"target": f"{MODULES}.permuter.DualGrainSeperatePermuter", "params": permuter},
            "weight_decay": 0.01,
        },
    }


DQVAE, DQTRANSFORMER = {"model": _dqvae()}, {"model": _dqtransformer(), "data": {"target": "anything"}}
DOCUMENTS = {"rqvae": RQVAE, "rqtransformer": RQTRANSFORMER, "dqvae": DQVAE, "dqtransformer": DQTRANSFORMER}


def rule_made(found: dict[str, tuple[int, ...]], salt: int = 0) -> dict[str, np.ndarray]:
    """Tensors by the golden rule; the copies of a shared codebook are one, masks are masks."""

    def one(key: str) -> np.ndarray:
        if key.endswith("attn.mask"):
            return np.tril(np.ones(found[key], np.float32))
        if key.startswith("quantizer.codebooks."):
            return det_array(".".join(["quantizer.codebooks.0", *key.split(".")[3:]]), found[key], salt)
        return det_array(key, found[key], salt)

    return {key: one(key) for key in found}


def checkpoint(family: str) -> dict:
    """What an official checkpoint of a tiny model of the family holds."""
    described = documents.read(DOCUMENTS[family])
    state_dict = rule_made(keys(described.model))
    disc = rule_made({key: tensor.shape for key, tensor in _discriminator().items()})
    if family == "rqvae":
        averaged = rule_made(keys(described.model), salt=1)
        return {"epoch": 3, "state_dict": state_dict, "state_dict_ema": averaged, "discriminator": disc}
    if family == "dqvae":
        rest = {"loss.perceptual_loss.lin0.model.1.weight": np.ones((1, 4, 1, 1), np.float32)}
        rest |= {f"loss.discriminator.{key}": tensor for key, tensor in disc.items()}
        return {"epoch": 1, "global_step": 7, "state_dict": state_dict | rest}
    if described.tokenizer is not None:
        first = rule_made(keys(described.tokenizer.model))
        state_dict |= {f"first_stage_model.{key}": tensor for key, tensor in first.items()}
    return {"state_dict": state_dict}


def _discriminator() -> dict[str, np.ndarray]:
    zeros = jax.tree.map(
        lambda x: np.zeros(x.shape, np.float32), jax.eval_shape(lambda: Discriminator(8, 1, rngs=nnx.Rngs(0)))
    )
    return discriminator_to_torch(zeros)


def write(family: str, folder: pathlib.Path, **changes) -> tuple[str, str]:
    """A checkpoint and its YAML file, as a person has them."""
    pt, config = folder / f"{family}.pt", folder / f"{family}.yaml"
    file.save(pt, checkpoint(family))
    config.write_text(yaml.safe_dump(DOCUMENTS[family] | changes))
    return str(pt), str(config)


def imported(family: str, folder: pathlib.Path, name: str = "imported", **options) -> pathlib.Path:
    """The folder that convert makes of such files."""
    convert.torch_to_folder(*write(family, folder), str(folder / name), **options)
    return folder / name
