"""Two-stage image generation with residual and dynamic quantizers, in JAX."""

import os
from typing import Any


def load(path: str | os.PathLike[str], *, ema: bool = True) -> Any:
    """The model in a run directory, or in a folder with config.json and model.safetensors; its averaged weights where
    `ema` and the run kept them. A prior's tokenizer is in its folder `tokenizer`.
    """
    from rqjax.run.directory import load_model  # here, since importing rqjax alone must not import JAX

    return load_model(os.fspath(path), ema=ema)[1]
