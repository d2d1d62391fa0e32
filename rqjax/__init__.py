"""Two-stage image generation with residual and dynamic quantizers, in JAX."""

import importlib.metadata
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rqjax.interface import Model

__version__ = importlib.metadata.version("rqjax")


def load(path: str | os.PathLike[str], *, ema: bool = True) -> "Model":
    """The model in a run directory, or in a folder with config.json and model.safetensors; its averaged weights where
    `ema` and the run kept them. A prior's tokenizer is in its folder `tokenizer`.
    """
    from rqjax.run.directory import Run  # here, since importing rqjax alone must not import JAX

    return Run.open(path).model(ema=ema)
