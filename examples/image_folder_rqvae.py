"""The RQ-VAE of a folder of images: trained, loaded from its run directory, and asked for codes and images.

The folder is made here, of 512 small images that the package carries; give another as the first argument. A run of 100
steps shows the way, not the quality: see docs/ and configs/ for recipes.
"""

import pathlib
import sys
import tempfile

import numpy as np
from PIL import Image

import rqjax
from rqjax.data import DataConfig, examples
from rqjax.data.images import to_float
from rqjax.data.sources import fashion_mnist
from rqjax.optim import OptimizerConfig
from rqjax.programs.train import train
from rqjax.quantize import QuantizerConfig
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.run.config import Config
from rqjax.stages.autoencode import AutoencodeConfig

SIZE = 32


def make_folder(folder: pathlib.Path) -> None:
    """Writes 512 images as PNG files."""
    for number, image in enumerate(fashion_mnist("train").image[::17][:512]):
        Image.fromarray(image).save(folder / f"{number:03}.png")


def config(folder: pathlib.Path, steps: int) -> Config:
    """A small RQ-VAE of 8x8 positions with 4 codes of 128 each; without LPIPS and discriminator, which take hours."""
    model = RQVAEConfig(
        resolution=SIZE,
        ch=16,
        ch_mult=(1, 2, 2),
        num_res_blocks=1,
        attn_resolutions=(),
        z_channels=16,
        embed_dim=16,
        code_shape=(8, 8),
        quantizer=QuantizerConfig(codebook_size=(128,), depth=4),
        remat=False,
    )
    adam = OptimizerConfig(learning_rate=2e-3, warmup_steps=10, schedule="cosine")
    stage = AutoencodeConfig(model=model, perceptual_weight=0.0, disc_weight=0.0, optimizer=adam)
    data = DataConfig(name="folder", path=str(folder), resize=SIZE, size=SIZE, batch=32, threads=2)
    return Config(stage=stage, data=data, steps=steps, log_every=50, preview_every=2 * steps, save_every=steps)


def main(folder: str = "", steps: int = 100) -> dict[str, float]:
    """Trains; prints and returns the errors of held-out images by the number of codes."""
    with tempfile.TemporaryDirectory() as scratch:
        images, run = pathlib.Path(folder or f"{scratch}/images"), pathlib.Path(scratch, "run")
        if not folder:
            images.mkdir()
            make_folder(images)
        train(config(images, steps), run)
        tokenizer = rqjax.load(run)
        held_out = DataConfig(name="folder", path=str(images), split="test", resize=SIZE, size=SIZE, batch=16)
        x = next(iter(examples(held_out, 16)))["image"]
    codes = tokenizer.encode(x)
    by_depth = [tokenizer.decode(codes, depth=d).images for d in range(1, 5)]  # the first 1, 2, ... codes of a position
    x = to_float(x)
    errors = {f"{d} of 4 codes": float(np.mean((to_float(made) - x) ** 2)) for d, made in enumerate(by_depth, start=1)}
    errors["a flat image"] = float(np.mean((x - x.mean(axis=(1, 2), keepdims=True)) ** 2))
    print(f"{len(x)} held-out images, codes {codes.shape[1:]}; mean squared error in [-1, 1]:")
    for name, error in errors.items():
        print(f"  {name:<14} {error:.4f}")
    return errors


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
