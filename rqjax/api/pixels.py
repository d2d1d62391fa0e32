"""The images of codes, as bytes."""

import jax
from jaxtyping import Array, UInt8

from rqjax.data.images import to_uint8
from rqjax.interface import Codes, Tokenizer
from rqjax.nets.partition import in_pieces

DECODED = 16
"""Images that a device makes of codes at once: their maps take far more memory than codes do."""


@jax.jit
def decoded(tokenizer: Tokenizer, codes: Codes) -> UInt8[Array, "n h w 3"]:
    """The images of codes, made in pieces of DECODED a device."""
    return in_pieces(lambda part: to_uint8(tokenizer.decode_codes(part)), codes, DECODED)
