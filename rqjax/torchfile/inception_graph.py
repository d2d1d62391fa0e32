"""FID's Inception as TensorFlow published it, classify_image_graph_def.pb, under the names of its PyTorch copy."""

from collections.abc import Iterator

import numpy as np

from rqjax.errors import InputError
from rqjax.nets.inception import MIXED, STEM, Branch
from rqjax.torchfile.graph import Node, read_graph

REMEDY = (
    "expected classify_image_graph_def.pb of December 2015, which the evaluator of"
    " github.com/openai/guided-diffusion downloads"
)
EPSILON = 1e-3
"""The number that batch normalisation adds to variances, unless the graph says otherwise: its PyTorch copy has this."""


def names() -> dict[str, str]:
    """The graph's name of each convolution by that of the PyTorch copy."""
    found = {f"Conv2d_{name}": "conv" if not i else f"conv_{i}" for i, name in enumerate(STEM)}
    for i, (block, branches) in enumerate(MIXED.items()):
        mixed, towers = "mixed" if not i else f"mixed_{i}", 0
        for branch in branches:
            if not branch.steps:
                continue
            # a branch of one convolution, without a pooling before it, is in no tower
            alone = len(branch.steps) == 1 and not branch.pool
            place = mixed if alone else f"{mixed}/tower{f'_{towers}' if towers else ''}"
            towers += not alone
            found |= dict(zip(copies(f"Mixed_{block}", branch), _steps(place, branch), strict=True))
    return found


def copies(block: str, branch: Branch) -> Iterator[str]:
    """The PyTorch copy's names of a branch's convolutions: numbered if there are several, and a and b behind a fork."""
    steps = len(branch.steps)
    for i in range(steps):
        if branch.forked and i >= steps - 2:
            yield f"{block}.{branch.name}_{steps - 1}{'ab'[i - steps + 2]}"
        else:
            yield f"{block}.{branch.name}_{i + 1}" if steps > 1 else f"{block}.{branch.name}"


def _steps(place: str, branch: Branch) -> Iterator[str]:
    straight = len(branch.steps) - 2 * branch.forked
    for i in range(len(branch.steps)):
        where, k = (place, i) if i < straight else (f"{place}/mixed", i - straight)
        yield f"{where}/conv{f'_{k}' if k else ''}"


def state_dict_of_graph(path: str) -> dict[str, np.ndarray]:
    """The state dict of the PyTorch copy from the graph. Raises InputError naming a constant that is missing."""
    nodes = read_graph(path)

    def constant(name: str) -> np.ndarray:
        node = nodes.get(name)
        if node is None or node.constant is None:
            raise InputError(f"{path} has no constant {name}: {REMEDY}")
        return node.constant

    found = {"fc.weight": constant("softmax/weights").T, "fc.bias": constant("softmax/biases")}
    for copy, name in names().items():
        norm = nodes.get(f"{name}/batchnorm", Node("", None, {})).attributes
        kernel, beta, mean = (
            constant(f"{name}/{leaf}") for leaf in ("conv2d_params", "batchnorm/beta", "batchnorm/moving_mean")
        )
        if kernel.ndim != 4:
            raise InputError(f"{path}: {name}/conv2d_params has the shape {list(kernel.shape)}: {REMEDY}")
        scaled = norm.get("scale_after_normalization", True)
        variance = constant(f"{name}/batchnorm/moving_variance").astype(np.float64)
        found[f"{copy}.conv.weight"] = kernel.transpose(3, 2, 0, 1)
        found[f"{copy}.bn.weight"] = constant(f"{name}/batchnorm/gamma") if scaled else np.ones_like(beta)
        found[f"{copy}.bn.bias"], found[f"{copy}.bn.running_mean"] = beta, mean
        found[f"{copy}.bn.running_var"] = variance + norm.get("variance_epsilon", EPSILON) - EPSILON  # it adds its own
    return found
