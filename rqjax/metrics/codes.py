"""How evenly codes are used, and the bits that they take, from how often each occurred."""

from collections.abc import Mapping

import numpy as np


def code_use(hits: np.ndarray) -> dict[str, float]:
    """Of one book: `usage`, the share of it that occurs, `entropy` of its codes in bits, and `perplexity`, the number
    of equally frequent codes with that entropy.
    """
    share = hits / max(hits.sum(), 1)
    entropy = -float(np.sum(share * np.log2(np.where(share > 0, share, 1))))
    return {"usage": float(np.mean(hits > 0)), "entropy": entropy, "perplexity": 2**entropy}


def book_use(hits: Mapping[str, np.ndarray]) -> dict[str, dict[str, float | int]]:
    """The `size` and the code_use of each book by its name (depths or grains)."""
    return {name: {"size": len(found), **code_use(found)} for name, found in hits.items()}


def bits_per_image(hits: Mapping[str, np.ndarray], images: float) -> dict[str, float]:
    """The bits of an image's codes, over all books (depths or grains): `nominal`, with log2 of the book's size for each
    code, and `entropy`, with the entropy of each book's codes, which an ideal coder of single codes would need.
    """
    each = {name: found.sum() / images for name, found in hits.items()}
    nominal = sum(count * np.log2(len(hits[name])) for name, count in each.items())
    return {
        "nominal": float(nominal),
        "entropy": float(sum(count * code_use(hits[name])["entropy"] for name, count in each.items())),
    }
