"""CLIP ViT-B/32 from the files of huggingface.co/openai/clip-vit-base-patch32."""

import pathlib
from collections.abc import Iterator

import jax.numpy as jnp
from jax.typing import DTypeLike

from rqjax.errors import InputError
from rqjax.nets.clip import CLIP, Sizes, shapes
from rqjax.store.safetensor_file import load_safetensors
from rqjax.torchfile import published
from rqjax.torchfile.table import Entry, Shapes, StateDict, import_arrays, layer_entries, shapes_of

BIN_SHA256 = "a6308213"
"""Of pytorch_model.bin; the same weights as model.safetensors are known by their names and shapes alone."""
REMEDY = "download model.safetensors or pytorch_model.bin of huggingface.co/openai/clip-vit-base-patch32"
BLOCK = {
    **{f"self_attn.{theirs}_proj": ours for theirs, ours in {"k": "key", "v": "value", "q": "query"}.items()},
    **{
        "self_attn.out_proj": "proj",
        "layer_norm1": "norm1",
        "mlp.fc1": "up",
        "mlp.fc2": "down",
        "layer_norm2": "norm2",
    },
}
"""Layers of a transformer block: published names and ours."""
LAYERS = {
    "text_model.embeddings.token_embedding": "text/embed",
    "text_model.embeddings.position_embedding": "text/positions",
    "text_model.final_layer_norm": "text/norm",
    "text_projection": "text/out",
    "vision_model.embeddings.patch_embedding": "image/patches",
    "vision_model.embeddings.position_embedding": "image/positions",
    "vision_model.pre_layrnorm": "image/norm1",  # it is published so
    "vision_model.post_layernorm": "image/norm2",
    "visual_projection": "image/out",
}
UNUSED = ("logit_scale", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


def entries(sizes: Sizes | None = None) -> list[Entry]:
    """The table of published names, but for UNUSED ones."""
    ours, table = shapes_of(shapes(sizes)), []
    for key, path in LAYERS.items():
        table += layer_entries(key, path, ours)
    table.append(Entry("vision_model.embeddings.class_embedding", "image/first", ours["image/first"]))
    for theirs, tower in {"text_model": "text", "vision_model": "image"}.items():
        table += _stack(f"{theirs}.encoder.layers", f"{tower}/stack/blocks", ours)
    return table


def _stack(key: str, path: str, shapes: Shapes) -> Iterator[Entry]:
    for layer in range(shapes[f"{path}/norm1/scale"][0]):
        for theirs, ours in BLOCK.items():
            inputs = 2 if ours == "proj" else 1  # it joins the heads
            yield from layer_entries(f"{key}.{layer}.{theirs}", f"{path}/{ours}", shapes, layer, inputs)


def from_torch(state_dict: StateDict, sizes: Sizes | None = None, dtype: DTypeLike = jnp.float32) -> CLIP:
    """CLIP from a state dict with the names of the transformers library. Raises InputError naming keys that are
    missing, unknown or misshapen.
    """
    kept = {key: tensor for key, tensor in state_dict.items() if key not in UNUSED}
    return import_arrays(entries(sizes), kept, shapes(sizes, dtype))


def load_clip(path: str, *, dtype: DTypeLike = jnp.float32, verify: bool = True) -> CLIP:
    """CLIP ViT-B/32 from model.safetensors, or from pytorch_model.bin, whose SHA-256 `verify` compares.

    Raises InputError if the file is missing, is another, or lacks an array; also for OpenAI's own ViT-B-32.pt, which is
    a program (TorchScript), and no program of a file is run here.
    """
    published.check_there("clip_path", path, REMEDY)
    ending = pathlib.Path(path).suffix
    if ending == ".pt":
        raise InputError(f"{path}: OpenAI's .pt files are TorchScript programs, which are not run here: {REMEDY}")
    if ending == ".safetensors":
        return from_torch(load_safetensors(path)[0], dtype=dtype)
    return from_torch(published.read(path, BIN_SHA256, REMEDY, verify=verify), dtype=dtype)
