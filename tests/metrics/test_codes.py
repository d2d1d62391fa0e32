import numpy as np
import pytest

from rqjax.metrics import bits_per_image, code_use


def test_use_of_even_and_of_single_codes():
    even = code_use(np.array([5.0, 5, 5, 5, 0, 0, 0, 0]))
    assert even == pytest.approx({"usage": 0.5, "entropy": 2.0, "perplexity": 4.0})
    assert code_use(np.array([0.0, 9, 0, 0])) == pytest.approx({"usage": 0.25, "entropy": 0.0, "perplexity": 1.0})
    assert code_use(np.zeros(4))["usage"] == 0


def test_bits_of_an_image():
    """Three images of 4 codes of depth one, which takes 2 of 4 codes evenly, and 2 codes of depth two, all even."""
    hits = {"1": np.array([6.0, 6, 0, 0]), "2": np.array([3.0, 3.0])}
    assert bits_per_image(hits, 3.0) == pytest.approx({"nominal": 4 * 2 + 2 * 1, "entropy": 4 * 1 + 2 * 1})
