"""The official implementations' files: their tensors' names, their YAML, and the recipes that trained them."""

from rqjax.official.convert import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
