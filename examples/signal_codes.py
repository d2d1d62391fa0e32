"""Residual codes of a 1-D signal, as audio codecs make them: each further code of a frame buys some dB.

The package carries no sound, so the signal is the brightness along the rows of images (Fashion-MNIST), one after the
other, in frames of 28 samples; the method is the same. A codec has an encoder before the quantizer: here frames are
quantized as they are. Frames of held-out images are measured.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rqjax.data.sources import fashion_mnist
from rqjax.quantize import QuantizerConfig, ResidualQuantizer

FRAME, DEPTH, CODES, BATCH = 28, 8, 256, 4096


def frames(split: str) -> jax.Array:
    """The signal [frames FRAME] of a split, of mean 0 and variance 1."""
    signal = fashion_mnist(split).image.astype(np.float32).reshape(-1, FRAME)
    return jnp.asarray((signal - 73.0) / 90.0)


def train(signal: jax.Array, steps: int) -> ResidualQuantizer:
    """A quantizer with a codebook for each depth, trained on random frames."""
    config = QuantizerConfig(codebook_size=(CODES,) * DEPTH, depth=DEPTH, decay=(0.95,), start="kmeans")
    config.check(FRAME)
    quantizer = config.init(jax.random.key(0), FRAME)

    @jax.jit
    def step(quantizer: ResidualQuantizer, key: jax.Array) -> ResidualQuantizer:
        rows = jax.random.randint(key, (BATCH,), 0, len(signal))
        return quantizer.encode(signal[rows], key, train=True)[1]

    for key in jax.random.split(jax.random.key(1), steps):
        quantizer = step(quantizer, key)
    return quantizer


def main(steps: int = 60) -> list[float]:
    """Prints and returns the signal-to-noise ratio in dB by the number of codes."""
    quantizer, signal = train(frames("train"), steps), frames("test")
    found, _ = jax.jit(ResidualQuantizer.encode, static_argnames="train")(
        quantizer, signal, jax.random.key(0), train=False
    )
    # a decoder has codes alone, and may be sent the first few of each frame
    decoded = [jax.jit(ResidualQuantizer.embed)(quantizer, found.codes[:, :d]) for d in range(1, DEPTH + 1)]
    snr = [10 * math.log10(float(jnp.sum(signal**2) / jnp.sum((signal - x) ** 2))) for x in decoded]
    print(f"{signal.size} samples in frames of {FRAME}, codes of {math.log2(CODES):.0f} bits")
    print("codes a frame  bits a sample  signal to noise  codes in use")
    for d, (ratio, used) in enumerate(zip(snr, found.metrics["usage"], strict=True), start=1):
        print(f"{d:>13}  {d * math.log2(CODES) / FRAME:>13.2f}  {ratio:>12.1f} dB  {float(used):>12.0%}")
    return snr


if __name__ == "__main__":
    main()
