"""Images a second that a core brings through PyTorch's DataLoader, for benchmarks/data.py to compare with.

    PYTHON benchmarks/torch_loader.py FOLDER SIZE BATCH PASSES

PYTHON has torch, Pillow and NumPy; nothing of rqjax is needed. The images of FOLDER are read as ImageNet's recipe does:
the shorter side to SIZE, a random crop, a mirror image by chance, in this process and one thread. Prints JSON: seconds
of the processor as images a second, for batches of uint8, and for the float32 in [-1, 1] that the official code's
transforms (to a tensor, and normalized) hand to its models.
"""

import importlib
import json
import pathlib
import sys
import time
from typing import Any

import numpy as np
from PIL import Image

torch: Any = importlib.import_module("torch")  # no dependency of the package
loading: Any = importlib.import_module("torch.utils.data")


class Images:
    """The images of a folder as tensors, cropped anew each time."""

    def __init__(self, folder: pathlib.Path, size: int, normalized: bool):
        self.paths, self.size, self.normalized = sorted(folder.iterdir()), size, normalized
        self.generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        image = Image.open(self.paths[index]).convert("RGB")
        sides = [self.size if x == min(image.size) else int(self.size * x / min(image.size)) for x in image.size]
        image = image.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)
        x, y = (int(self.generator.integers(side - self.size + 1)) for side in sides)
        image = image.crop((x, y, x + self.size, y + self.size))
        if self.generator.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image))
        return pixels.permute(2, 0, 1).contiguous().float().div(255).sub(0.5).div(0.5) if self.normalized else pixels


def rate(images: Images, batch: int, passes: int) -> float:
    """Images a second of the processor, in so many passes over all."""
    loader = loading.DataLoader(images, batch_size=batch, shuffle=True, drop_last=True, num_workers=0)
    next(iter(loader))
    start, count = time.process_time(), 0
    for _ in range(passes):
        count += sum(len(part) for part in loader)
    return count / (time.process_time() - start)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, size, batch, passes = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:5])
    print(
        json.dumps(
            {name: rate(Images(folder, size, name == "float32"), batch, passes) for name in ("uint8", "float32")}
        )
    )
