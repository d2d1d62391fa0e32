"""Quantizers of vectors, usable on their own: pytrees with pure methods, which import nothing of the rest of rqjax.

    quantizer = QuantizerConfig(codebook_size=(256,), depth=4).init(jax.random.key(0), dim=32)
    found, quantizer = quantizer.encode(z, key, train=True)  # z [..., 32]; jit it with `train` static
    found.codes  # [..., 4] int32
    found.quantized  # [..., 32], through which gradients reach z; add found.loss to the loss of what reads it
    quantizer.embed(found.codes[..., :2])  # [..., 32], the sum of the first two codes' vectors

A quantizer learns by `encode` with train=True alone, and by gradients if its `parameters` are not None. Each book
(Codebook, SimVQ, FSQ) is a quantizer too, of depth 1. Dynamic quantization is in `rqjax.quantize.dynamic`.
"""

from rqjax.quantize.codebook import Codebook, init_codebook
from rqjax.quantize.config import QuantizerConfig
from rqjax.quantize.fsq import FSQ
from rqjax.quantize.histogram import perplexity, usage
from rqjax.quantize.quantizer import Quantized, Quantizer, SoftQuantizer
from rqjax.quantize.residual import Book, ResidualQuantizer
from rqjax.quantize.simvq import SimVQ, init_simvq

__all__ = ["FSQ", "Book", "Codebook", "Quantized", "Quantizer", "QuantizerConfig", "ResidualQuantizer", "SimVQ"]
__all__ += ["SoftQuantizer", "init_codebook", "init_simvq", "perplexity", "usage"]
