"""How figures.json was made: `python make_figures.py RQ_CHECKOUT DQ_CHECKOUT`, the two official repositories.

PyTorch 2.13.0 on a CPU, in float32 and with one thread; every weight and image by tests/golden/deterministic.py, and
`pos_emb` times 0.02 sqrt(its size), as in the cases of dqtransformer. The configurations are the most telling of a
random sweep over a hundred. Only this script needs PyTorch; of Lightning the DQ checkout uses the name of a class
alone here, and of what draws pictures nothing.
"""

import importlib
import json
import pathlib
import sys
import types
import zlib
from unittest import mock

import numpy as np
import torch
from omegaconf import OmegaConf

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [sys.argv[1], sys.argv[2], str(HERE.parent)]
from deterministic import det_array, det_image  # noqa: E402

lightning = types.ModuleType("pytorch_lightning")
lightning.LightningModule = torch.nn.Module
UNUSED = "requests PIL PIL.Image PIL.ImageDraw matplotlib cv2 torchvision torchvision.transforms torchvision.models".split()
sys.modules |= {"pytorch_lightning": lightning} | {name: mock.MagicMock() for name in UNUSED}
MODULES = "modules.dynamic_modules"


def rqvae(code_shape: list[int], n_embed, ddconfig: dict, **hparams) -> dict:
    dd = {"double_z": False, "in_channels": 3, "out_ch": 3, "ch": 32, "num_res_blocks": 1, "attn_resolutions": []}
    dd |= {"dropout": 0.0, **ddconfig}
    latent = dd["resolution"] >> (len(dd["ch_mult"]) - 1)
    hps = {"bottleneck_type": "rq", "embed_dim": 4, "n_embed": n_embed, "latent_shape": [latent, latent, 4]}
    hps |= {"code_shape": code_shape, "shared_codebook": False, "decay": 0.99, "restart_unused_codes": True, **hparams}
    return {"type": "rq-vae", "hparams": hps, "ddconfig": dd, "checkpointing": False}


def dqvae(kind: str, ch_mult: list[int], router: tuple[str, dict], decoder: dict, codes: dict, **encoder) -> dict:
    grains = 3 if kind.startswith("dqvae_triple") else 2
    name = {2: "EncoderDual.DualGrainEncoder", 3: "EncoderTriple.TripleGrainEncoder"}[grains]
    target, params = router
    enc = {"ch": 32, "ch_mult": ch_mult, "num_res_blocks": 1, "attn_resolutions": [], "in_channels": 3}
    enc |= {"resolution": 16, "z_channels": 12, **encoder}
    enc["router_config"] = {"target": f"{MODULES}.{target}", "params": params}
    dec = {"ch": 32, "in_ch": 12, "out_ch": 3, "num_res_blocks": 1, "resolution": 16, "attn_resolutions": [], **decoder}
    module = "DecoderPositional" if "position_type" in decoder else "Decoder"
    if module == "DecoderPositional":
        dec["latent_size"] = 16 >> (len(ch_mult) - grains)
    parts = {
        "encoderconfig": {"target": f"{MODULES}.{name}", "params": enc},
        "decoderconfig": {"target": f"{MODULES}.{module}.Decoder", "params": dec},
        "lossconfig": {"target": "modules.losses.vqperceptual.DummyLoss"},
        "vqconfig": {"target": "modules.vector_quantization.quantize2_mask.VectorQuantize2", "params": codes},
    }
    sizes = {"quant_before_dim": 12, "quant_after_dim": codes["codebook_dim"]}
    if "entropy" in kind:
        sizes |= {"entropy_patch_size": 1 << (len(ch_mult) - 1), "image_size": 16}
    return {"target": f"models.stage1_dynamic.{kind}", "params": parts | sizes}


def dqtransformer(coarse: int, codes: int, classes: int, order: str, **network) -> dict:
    cells, fine, starts = coarse**2, 4 * coarse**2, max(classes, 1)
    pads = {"content_pad_code": codes, "coarse_position_pad_code": cells, "fine_position_pad_code": fine}
    ends = {"content_eos_code": codes + 1, "coarse_position_eos_code": cells + 1, "fine_position_eos_code": fine + 1}
    sizes = {"vocab_size": codes + 2, "coarse_position_size": cells + 2, "fine_position_size": fine + 2}
    net = {key: size + starts for key, size in sizes.items()} | {"segment_size": 2, "block_size": fine + 3}
    net |= dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.1)
    permuter = {"coarse_hw": coarse, "fine_hw": 2 * coarse, "fine_position_order": order, **pads, **ends}
    firsts, segments = (codes + 2, cells + 2, fine + 2), {"coarse_seg_sos": 0, "fine_seg_sos": 1}
    if classes:
        names = ("threshold_content", "threshold_coarse_position", "threshold_fine_position")
        start = {"n_classes": classes, **dict(zip(names, firsts, strict=True))}
    else:
        start = dict(zip(("coarse_sos", "coarse_pos_sos", "fine_pos_sos"), firsts, strict=True)) | {"fine_sos": codes + 2}
    kind, provider = ("class_cond", "ClassAware") if classes else ("uncond", "PositionAware")
    parts = {
        "transformer_config": {"target": f"{MODULES}.stackgpt.StackGPT", "params": net | pads | network},
        "permuter_config": {"target": f"{MODULES}.permuter.DualGrainSeperatePermuter", "params": permuter},
        f"{kind}_stage_config": {"target": f"{MODULES}.label_provider.{provider}SOSProvider", "params": start | segments},
    }
    module = "class2" if classes else "uncond"
    return {"target": f"models.stage2_dynamic.dqtransformer_{module}_entropy.Dualformer", "params": parts}


DUAL, TRIPLE = "dqvae_dual_feat.DualGrainVQModel", "dqvae_triple_feat.TripleGrainVQModel"
FEATURE, TRIPLES = "RouterDual.DualGrainFeatureRouter", "RouterTriple.TripleGrainFeatureRouter"
ENTROPY = ("RouterDual.DualGrainFixedEntropyRouter", {"json_path": "thresholds.json", "fine_grain_ratito": 0.5})
CASES = {
    "rqvae of one level, books of their own, grid not square": rqvae(
        [4, 2, 3], [3, 8, 20], {"ch_mult": [1], "resolution": 8, "z_channels": 7}, decay=[0.9, 0.99, 0.9]
    ),
    "rqvae folded, one book, attention twice": rqvae(
        [2, 4, 2],
        5,
        {"ch_mult": [2, 1], "resolution": 16, "z_channels": 4, "attn_resolutions": [16, 8]},
        shared_codebook=True,
    ),
    "rqvae of one code, three halvings of no power of two": rqvae(
        [3, 1, 1], 1, {"ch_mult": [1, 1, 2, 1], "resolution": 24, "z_channels": 4}, latent_loss_weight=1.0
    ),
    "dqvae dual, a line of a router, no positions": dqvae(
        DUAL,
        [1, 1],
        (FEATURE, {"num_channels": 12}),
        {"ch_mult": [2]},
        {"codebook_size": 8, "codebook_dim": 4, "commitment_beta": 1.0},
        attn_resolutions=[8],
    ),
    "dqvae triple, ReLU, positions of waves": dqvae(
        TRIPLE,
        [2, 1, 2, 2],
        (TRIPLES, {"num_channels": 12, "gate_type": "2layer-fc-ReLu", "normalization_type": "group-4"}),
        {"ch_mult": [1, 2], "position_type": "fourier", "attn_resolutions": [8]},
        {"codebook_size": 30, "codebook_dim": 12},
    ),
    "dqvae by entropy, positions never added": dqvae(
        "dqvae_dual_entropy.DualGrainVQModel",
        [1, 1, 2],
        ENTROPY,
        {"ch_mult": [1, 1], "position_type": "learned-relative", "window_size": 4},
        {"codebook_size": 8, "codebook_dim": 4, "commitment_beta": 0.0},
        update_router=False,
    ),
    "dqtransformer of one class, regions first": dqtransformer(
        3, 7, 1, "region-first", position_layer=1, content_layer=2, n_head=2, n_embd=8, block_size=50
    ),
    "dqtransformer of one cell, one code, heads of three": dqtransformer(
        1, 1, 0, "row-first", position_layer=2, content_layer=1, n_head=4, n_embd=12
    ),
    "dqtransformer of five classes, rows first": dqtransformer(
        2, 16, 5, "row-first", position_layer=1, content_layer=1, n_head=1, n_embd=8
    ),
}
THRESHOLD = 1.2
"""The entropy above which a region is fine, at all percentiles of thresholds.json."""


def digest(key: str, x) -> list[float]:
    x = np.asarray(x, np.float64)
    return [float(np.linalg.norm(x)), float(np.sum(x * det_array("probe:" + key, x.shape)))]


def filled(model, one_book: bool = False) -> int:
    """Gives a model its weights; the checksum of its keys and shapes."""
    shapes = {key: list(x.shape) for key, x in model.state_dict().items() if not key.endswith("attn.mask")}
    made = {}
    for key, shape in shapes.items():
        name = ".".join(["quantizer.codebooks.0", *key.split(".")[3:]]) if one_book and ".codebooks." in key else key
        scale = 0.02 * np.prod(shape[1:]) ** 0.5 if key == "pos_emb" else 1
        made[key] = torch.from_numpy(np.asarray(det_array(name, shape) * np.float32(scale)))
    model.load_state_dict(model.state_dict() | made)
    return zlib.crc32(json.dumps(shapes, sort_keys=True).encode())


def margin(book, vectors) -> float:
    """The smallest distance, relative to the second, between the two nearest codes; 1 if there is one."""
    near = book.compute_distances(vectors).topk(min(2, book.n_embed), largest=False).values
    return float(((near[..., -1] - near[..., 0]) / near[..., -1]).min()) if book.n_embed > 1 else 1.0


def of_rqvae(name: str, config: dict) -> dict:
    model, _ = importlib.import_module("rqvae.models").create_model(OmegaConf.create(config))
    model.eval()
    found = {"keys": filled(model, config["hparams"]["shared_codebook"])}
    side = config["ddconfig"]["resolution"]
    image = torch.from_numpy(det_image(name, (2, 3, side, side)))
    latent, (image, loss, codes) = model.encode(image), model(image)
    rest, margins = model.quantizer.to_code_shape(latent), []
    for book, code in zip(model.quantizer.codebooks, codes.unbind(-1), strict=True):
        margins.append(margin(book, rest))
        rest = rest - book.embed(code)
    found |= {"codes": codes.tolist(), "loss": float(loss), "margin": min(margins)}
    return found | {"latent": digest("latent", latent), "image": digest("image", image)}


def of_dqvae(name: str, config: dict) -> dict:
    table = pathlib.Path("thresholds.json")  # in the current directory, where the release looks for it
    table.write_text(json.dumps(dict.fromkeys(map(str, range(1, 100)), THRESHOLD)))
    model = importlib.import_module("utils.utils").instantiate_from_config(OmegaConf.create(config)).eval()
    table.unlink()
    found, latents = {"keys": filled(model)}, []
    model.quant_conv.register_forward_hook(lambda module, given, made: latents.append(made.permute(0, 2, 3, 1)))
    image = torch.from_numpy(det_image(name, (2, 3, 16, 16)))
    if "entropy" in config["target"]:
        image[..., :8] = torch.round(image[..., :8])  # or all regions have much to say
    _, loss, (_, _, codes), grain, gate = model.encode(image)[:5]
    found |= {"codes": codes.tolist(), "grain": grain.tolist(), "loss": float(loss)}
    best = gate.double().topk(2, dim=1).values
    found |= {"margin": margin(model.quantize.codebook, latents[0]), "gate_margin": float((best[:, 0] - best[:, 1]).min())}
    return found | {"latent": digest("latent", latents[0]), "image": digest("image", model(image)[0])}


class FirstStage(torch.nn.Module):
    """Of a tokenizer what the prior asks: its codes, given as the image."""

    def encode(self, image):
        codes, grain = image
        return None, None, (None, None, codes), grain, None, None


def of_dqtransformer(name: str, config: dict) -> dict:
    module = importlib.import_module(config["target"].rpartition(".")[0])
    module.Dualformer.init_first_stage_from_ckpt = lambda self, _: setattr(self, "first_stage_model", FirstStage())
    parts = {key: OmegaConf.create(part) for key, part in config["params"].items()}
    model = module.Dualformer(first_stage_config=None, **parts).eval()
    net, permuter = (config["params"][f"{part}_config"]["params"] for part in ("transformer", "permuter"))
    found, side = {"keys": filled(model.transformer), "images": []}, permuter["coarse_hw"]
    start = config["params"].get("class_cond_stage_config", {"params": {}})["params"]
    forward, logits = model.transformer.forward, {}

    def without_targets(**given):
        logits.update(forward(**{key: x for key, x in given.items() if not key.endswith("target")}))
        return forward(**given)

    model.transformer.forward = without_targets
    for index, share in enumerate((0.3, 0.7)):
        draw = np.random.RandomState(zlib.crc32(f"{name} {index}".encode()))
        grain = (draw.random_sample((1, side, side)) < share).astype(int)
        whole = lambda x: x.repeat(2, 1).repeat(2, 2)  # noqa: E731
        drawn = [draw.randint(0, net["content_pad_code"], (1, size, size)) for size in (side, 2 * side)]
        codes, label = np.where(whole(grain) == 0, whole(drawn[0]), drawn[1]), int(draw.randint(start.get("n_classes", 1)))
        image = tuple(map(torch.from_numpy, (codes, grain)))
        losses = model(image, torch.tensor([label]))
        one = {"codes": codes[0].tolist(), "grain": grain[0].tolist(), "label": label}
        one |= {key: digest(key, logits[f"{key}_logits"]) for key in ("position", "content")}
        found["images"].append(one | {key: float(x) for key, x in losses.items() if key in ("content_loss", "position_loss")})
    return found


def main() -> None:
    torch.set_num_threads(1)
    of, found = {"rqvae": of_rqvae, "dqvae": of_dqvae, "dqtransformer": of_dqtransformer}, {}
    for name, config in CASES.items():
        with torch.no_grad():
            found[name] = {"config": config} | of[name.split()[0]](name, config)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in found.items())
    (HERE / "figures.json").write_text(f"{{\n{lines}\n}}\n")


main()
