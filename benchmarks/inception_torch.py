"""Seconds of FID's Inception in PyTorch, for benchmarks/inception.py to compare with.

    PYTHON benchmarks/inception_torch.py WEIGHTS IMAGES OUT

PYTHON has torch and NumPy; nothing of rqjax is needed. WEIGHTS is an .npz with the convolutions after their
normalisation was folded in, and where each stands; IMAGES are floats [b 299 299 3] as .npy. For each word on its
standard input it runs once and prints the seconds, and those of the processor; before that it writes the features
[b 2048] to OUT.
"""

import importlib
import json
import sys
import time
from typing import Any

import numpy as np

torch: Any = importlib.import_module("torch")  # no dependency of the package
F: Any = importlib.import_module("torch.nn.functional")


class Network:
    """The layers as benchmarks/inception.py lists them: branches of a pooling, and convolutions with their kernels."""

    def __init__(self, arrays: Any):
        self.stem, self.blocks = json.loads(str(arrays["plan"]))
        loaded = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "plan"}
        last = torch.channels_last
        self.arrays = {n: x.to(memory_format=last) if x.dim() == 4 else x for n, x in loaded.items()}

    def __call__(self, image: Any) -> Any:
        x = image
        for i, branch in enumerate(self.stem):
            x = self.branch(x, branch)
            x = F.max_pool2d(x, 3, 2) if i in (2, 4) else x
        for block in self.blocks:
            x = torch.cat([self.branch(x, branch) for branch in block], dim=1)
        return x.mean(dim=(2, 3))

    def branch(self, x: Any, branch: Any) -> Any:
        if branch["pool"] == "mean":
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        elif branch["pool"]:
            x = F.max_pool2d(x, 3, 2) if branch["pool"].startswith("halving") else F.max_pool2d(x, 3, 1, 1)
        steps = branch["steps"]
        fork = steps[len(steps) - 2 :] if branch["forked"] else []
        for step in steps[: len(steps) - len(fork)]:
            x = self.conv(x, step)
        return torch.cat([self.conv(x, step) for step in fork], dim=1) if fork else x

    def conv(self, x: Any, step: Any) -> Any:
        kernel, bias = self.arrays[f"{step['name']}/kernel"], self.arrays[f"{step['name']}/bias"]
        padding = (0, 0) if step["inside"] else tuple(side // 2 for side in step["kernel"])
        return F.conv2d(x, kernel, bias, step["stride"], padding).relu_()


def main() -> None:
    weights, images, out = sys.argv[1:4]
    with np.load(weights) as arrays:
        network = Network(arrays)
    image = torch.from_numpy(np.load(images)).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        np.save(out, network(image).numpy())
        print("ready", flush=True)
        for _ in sys.stdin:
            start, worked = time.perf_counter(), time.process_time()
            network(image)
            print(time.perf_counter() - start, time.process_time() - worked, flush=True)


if __name__ == "__main__":
    main()
