"""Figures that compare images or sets of them, as papers report them: functions from arrays to values."""

from rqjax.metrics.codes import bits_per_image, book_use, code_use
from rqjax.metrics.frechet import frechet_distance
from rqjax.metrics.inception_score import equal_parts, inception_score, parts_of
from rqjax.metrics.kernel_distance import kernel_distance
from rqjax.metrics.mind import mind
from rqjax.metrics.moments import Gaussian, Moments, load_gaussians, save_gaussians
from rqjax.metrics.ms_ssim import ms_ssim
from rqjax.metrics.neighbours import nearest_class
from rqjax.metrics.precision_recall import precision_recall
from rqjax.metrics.protocols import PROTOCOLS, Protocol, resized
from rqjax.metrics.psnr import psnr
from rqjax.metrics.ssim import ssim

__all__ = [
    "PROTOCOLS",
    "Gaussian",
    "Moments",
    "Protocol",
    "bits_per_image",
    "book_use",
    "code_use",
    "equal_parts",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "load_gaussians",
    "mind",
    "ms_ssim",
    "nearest_class",
    "parts_of",
    "precision_recall",
    "psnr",
    "resized",
    "save_gaussians",
    "ssim",
]
