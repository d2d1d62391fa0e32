"""Two-stage image generation with residual and dynamic quantizers, in JAX."""

import importlib.metadata
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

    from rqjax.api import LoadedClassifier, LoadedPrior, LoadedTokenizer

__version__ = importlib.metadata.version("rqjax")


def load(
    path: str | os.PathLike[str],
    *,
    ema: bool = True,
    tokenizer: str | os.PathLike[str] | None = None,
    batch: int = 64,
    devices: "Sequence[jax.Device] | None" = None,
    dtype: str | None = None,
) -> "LoadedTokenizer | LoadedPrior | LoadedClassifier":
    """The model in a run directory, or in a folder with config.json and model.safetensors, which may be one of a hub
    (hf://OWNER/NAME or hf://OWNER/NAME@REVISION); its averaged weights where `ema` and the run kept them.

    A tokenizer has encode() and decode(), a prior generate(), a classifier classify(), for images as people hold them;
    `.model` is the model itself. A prior's tokenizer is in its folder `tokenizer`, if none is named. At most `batch`
    images are computed at once, over `devices`, or all that this process has. With the `dtype` "bfloat16" a prior's
    parameters take half of the memory, and it computes in it; softmax and logits stay float32, and so does its
    tokenizer. With "int8" the weights of its layers take a quarter; it computes in bfloat16, on CPUs in float32. Raises
    InputError for what is no model.
    """
    from rqjax import api  # here, since importing rqjax alone must not import JAX

    return api.load(path, ema=ema, tokenizer=tokenizer, batch=batch, devices=devices, dtype=dtype)
