"""Figures that compare images, as papers report them: each is one function from arrays to a value for each image."""

from rqjax.metrics.psnr import psnr
from rqjax.metrics.ssim import ssim

__all__ = ["psnr", "ssim"]
