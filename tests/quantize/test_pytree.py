import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from rqjax.quantize.codebook import init_codebook

BOOK = init_codebook(jax.random.key(0), 4, 3, decay=0.7)


def test_the_constructor_checks_shapes():
    with pytest.raises(TypeCheckError, match="count"):
        dataclasses.replace(BOOK, count=jnp.zeros(5))


def test_jax_may_put_anything_in_the_place_of_arrays():
    shapes = jax.eval_shape(lambda: BOOK)
    assert (shapes.embed.shape, shapes.decay) == ((4, 3), 0.7)
    assert jax.tree.map(lambda x: None, BOOK).count is None
    many = jax.vmap(lambda key: init_codebook(key, 4, 3))(jax.random.split(jax.random.key(1), 5))
    assert many.embed.shape == (5, 4, 3)


def test_names_are_those_of_fields_and_settings_are_structure():
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(BOOK)[0]]
    assert names == [".embed", ".count", ".total", ".padding"]
    assert jax.tree.structure(BOOK) != jax.tree.structure(dataclasses.replace(BOOK, decay=0.8))
    assert jax.tree.structure(BOOK) == jax.tree.structure(dataclasses.replace(BOOK, embed=BOOK.embed + 1))
