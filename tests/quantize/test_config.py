import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.quantize import QuantizerConfig, init_codebook

KEY = jax.random.key(0)
CONFIG = QuantizerConfig(codebook_size=(16,), depth=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "lfq"}, "kind is 'lfq': expected one of codebook, simvq, fsq"),
        ({"depth": 0}, "depth is 0: at least one code"),
        ({"codebook_size": ()}, r"codebook_size is \(\): expected whole numbers"),
        ({"codebook_size": (0,)}, r"codebook_size is \(0,\): expected whole numbers of at least 1"),
        ({"codebook_size": (8, 8)}, "codebook_size has 2 sizes for depth 3: give one, or one for each depth"),
        ({"decay": (0.9, 0.9)}, "2 decays for 1 codebooks: give one, or one for each"),
        ({"decay": (1.5,)}, r"decay is \(1.5,\): expected values in \[0, 1\)"),
        ({"restart_threshold": -1.0}, "restart_threshold is -1.0: expected 0"),
        ({"commitment_weight": -0.1}, "commitment_weight is -0.1"),
        ({"restart_warning": 2.0}, "restart_warning is 2.0"),
        ({"levels": (5, 5)}, r"levels belongs to kind 'fsq', not 'codebook': leave it at \(\)"),
        ({"kind": "fsq"}, r"each of a vector's 6 dimensions, levels is \(\): give 6 levels$"),
        ({"kind": "fsq", "levels": (5,) * 4}, "give 6 levels, or set embed_dim=4"),
        ({"kind": "fsq", "levels": (5, 5, 5, 5, 5, 2)}, "expected whole numbers of at least 3"),
        ({"kind": "fsq", "levels": (40,) * 6}, "make 4096000000 codes"),
        ({"kind": "fsq", "levels": (5,) * 6, "decay": (0.9,)}, "decay belongs to kind 'codebook', not 'fsq'"),
        ({"kind": "fsq", "levels": (5,) * 6, "commitment_weight": 1.0}, "commitment_weight belongs to kind"),
        ({"kind": "simvq", "restart_threshold": 2.0}, "restart_threshold belongs to kind 'codebook', not 'simvq'"),
        ({"kind": "simvq", "codebook_size": (8, 8)}, "codebook_size has 2 sizes for depth 3"),
        ({"start": "pca"}, "start is 'pca': expected one of normal, kmeans"),
        ({"gradient": "reinforce"}, "gradient is 'reinforce': expected one of straight_through, rotation"),
        ({"normalize": True}, "normalize is for depth 1, not 3"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": 0.5, "gradient": "rotation"}, "'rotation' diverges with drawn codes: set temperature=0"),
        ({"dropout": 1.5}, "dropout is 1.5: expected a share"),
        ({"dropout": 0.1, "dropout_from": 3}, "dropout_from is 3, depth 3: dropout needs 1 <= dropout_from < depth"),
        ({"dropout": 0.1, "dropout_from": 0}, "dropout_from is 0"),
        ({"kind": "fsq", "levels": (5,) * 6, "gradient": "rotation"}, "gradient belongs to kind 'codebook'"),
        ({"kind": "fsq", "levels": (5,) * 6, "temperature": 1.0}, "temperature belongs to kind 'codebook'"),
        ({"kind": "simvq", "start": "kmeans"}, "start belongs to kind 'codebook', not 'simvq'"),
        ({"kind": "simvq", "normalize": True, "depth": 1}, "normalize belongs to kind 'codebook'"),
    ],
)
def test_values_that_make_no_quantizer_are_refused(changes, message):
    CONFIG.check(6)
    with pytest.raises(ValueError, match=message) as error:
        dataclasses.replace(CONFIG, **changes).check(6)
    assert "\n" not in str(error.value)


def test_vectors_without_dimensions_are_refused():
    with pytest.raises(ValueError, match="0 dimensions"):
        CONFIG.check(0)


@pytest.mark.parametrize("sizes", [(16,), (16, 8, 4)])
def test_init_makes_one_book_for_each_size(sizes):
    config = dataclasses.replace(CONFIG, codebook_size=sizes, decay=(0.9, 0.8, 0.7)[: len(sizes)], depth=3)
    config.check(6)
    shapes = jax.eval_shape(lambda key: config.init(key, 6), KEY)
    quantizer = jax.jit(config.init, static_argnums=1)(KEY, 6)
    assert jax.tree.structure(shapes) == jax.tree.structure(quantizer)
    assert quantizer.sizes == config.sizes == (sizes * 3 if len(sizes) == 1 else sizes)
    assert quantizer.dim == 6
    assert quantizer.parameters is None
    assert config.soft
    for key, size, decay, book in zip(
        jax.random.split(KEY, len(sizes)), sizes, config.decay, quantizer.codebooks, strict=True
    ):
        np.testing.assert_array_equal(book.embed, init_codebook(key, size, 6).embed)
        np.testing.assert_array_equal(book.count, jnp.zeros(size))
        assert book.decay == decay
