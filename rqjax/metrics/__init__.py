"""Figures that compare images, as papers report them: each is one function from arrays to a value for each image."""

from rqjax.metrics.neighbours import nearest_class
from rqjax.metrics.psnr import psnr
from rqjax.metrics.ssim import ssim

__all__ = ["nearest_class", "psnr", "ssim"]
