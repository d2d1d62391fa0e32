"""How data.npz and meta.json were made: `python make_figures.py CHECKOUT`, of kakaobrain/rq-vae-transformer at 341395e.

PyTorch 2.13.0 on a CPU, in float32 and with one thread; every weight by tests/golden/deterministic.py. Only this script
needs PyTorch. Python 3.11 asks for `field(default_factory=...)` in two lines of the checkout's rqtransformer/configs.py.
"""

import itertools
import json
import pathlib
import sys

import numpy as np
import torch
from omegaconf import OmegaConf

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [sys.argv[1], str(HERE.parents[1])]
from deterministic import det_array  # noqa: E402
from rqvae.models.rqtransformer import RQTransformer  # noqa: E402
from rqvae.models.rqtransformer.configs import RQTransformerConfig  # noqa: E402

FLAGS = ("input_emb_vqvae", "head_emb_vqvae", "cumsum_depth_ctx", "shared_tok_emb", "shared_cls_emb")
CODES, INPUT, LABELS = 11, 4, [2, 0]
ARCH = {
    **{"type": "rq-transformer", "block_size": [2, 2, 3], "vocab_size": CODES, "embed_dim": 8, "input_embed_dim": INPUT},
    **{"vocab_size_cond": 3, "block_size_cond": 1},
    "body": {"n_layer": 1, "block": {"n_head": 2}},
    "head": {"n_layer": 1, "block": {"n_head": 2}},
}
ALL = dict.fromkeys(FLAGS, True)
OPTIONS = {
    "no head": {**ALL, "head": {"n_layer": 0, "block": {"n_head": 2}}},
    "no body": {**ALL, "body": {"n_layer": 0, "block": {"n_head": 2}}},
    "no biases": {
        **ALL,
        "body": {"n_layer": 1, "block": {"n_head": 2, "attn_bias": False, "mlp_bias": False}},
        "head": {"n_layer": 1, "block": {"n_head": 2, "attn_bias": False, "mlp_bias": False}},
    },
    "blocks that differ": {
        **ALL,
        "body": {"n_layer": 2, "block": {"n_head": 4, "attn_bias": False, "gelu": "v2", "resid_pdrop": 0.3}},
        "head": {"n_layer": 1, "block": {"n_head": 1, "mlp_bias": False, "attn_pdrop": 0.2}},
    },
    "depth 1 of its own embeddings": {"block_size": [2, 2, 1]},
}


class Tokenizer:
    """Of a tokenizer what the prior asks: a vector for each code, one codebook for all depths."""

    book = torch.from_numpy(det_array("quantizer.codebooks.0.weight", (CODES + 1, INPUT)))

    def get_code_emb_with_depth(self, codes):
        return torch.nn.functional.embedding(codes, self.book), None


def figures(arch: dict) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Logits; the likeliest codes, drawn with caches, of whole images and of lower halves; the state dict's shapes."""
    model = RQTransformer(RQTransformerConfig.create(OmegaConf.create(arch))).eval()
    shapes = {key: list(x.shape) for key, x in model.state_dict().items()}
    made = {key: torch.from_numpy(det_array(key, shape)) for key, shape in shapes.items() if "offsets" not in key}
    model.load_state_dict(model.state_dict() | made)
    size, cond = tuple(arch["block_size"]), torch.tensor(LABELS)
    codes = torch.from_numpy(np.random.RandomState(7).randint(0, CODES, (len(LABELS), *size)))
    with torch.no_grad():
        logits = model(codes, Tokenizer(), cond=cond)
        drawn = model.sample(torch.zeros_like(codes), Tokenizer(), cond=cond, top_k=1)
        best = model(drawn, Tokenizer(), cond=cond).topk(2).values
        completed = model.sample(codes, Tokenizer(), cond=cond, start_loc=(1, 0), top_k=1)
        whole = model(drawn, Tokenizer(), cond=cond).argmax(-1)
    margin = float((best[..., 0] - best[..., 1]).min())
    if margin < 1e-4 or not torch.equal(whole, drawn):
        raise ValueError(f"the caches and the whole pass differ, or all but tie: by {margin}")
    return {"logits": logits.numpy(), "drawn": drawn.numpy(), "completed": completed.numpy()}, shapes


def main() -> None:
    torch.set_num_threads(1)
    flags = itertools.product((False, True), repeat=len(FLAGS))
    cases = {" ".join(itertools.compress(FLAGS, chosen)): dict(zip(FLAGS, chosen, strict=True)) for chosen in flags}
    data, meta = {"labels": np.array(LABELS, np.uint8)}, {}
    for name, changes in (cases | OPTIONS).items():
        found, shapes = figures(ARCH | changes)
        for key, x in found.items():
            data[f"{name}/{key}"] = x.astype(np.float32 if key == "logits" else np.uint8)
        meta[name] = {"config": changes, "param_shapes": shapes}
    for depth in (1, 3):
        data[f"codes {depth}"] = np.random.RandomState(7).randint(0, CODES, (len(LABELS), 2, 2, depth)).astype(np.uint8)
    np.savez_compressed(HERE / "data.npz", **data)
    first = meta[""]["param_shapes"]
    for case in meta.values():  # but for the first, the shapes that are not the first's, and None for those it lacks
        found = case["param_shapes"]
        if found is not first:
            case["param_shapes"] = {key: found.get(key) for key in first | found if found.get(key) != first.get(key)}
    content = {"kind": "rqtransformer_options", "config": ARCH, "cases": meta}
    (HERE / "meta.json").write_text(json.dumps(content) + "\n")


main()
