"""All combinations of the official RQ-Transformer's flags, and options that no published model has, by its figures."""

import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax.nets.sampling import Draw, Draws, draws_of
from rqjax.official import from_torch, to_torch
from rqjax.official.rqtransformer import FLAGS
from rqjax.rq import sample
from rqjax.run.config import from_dict, to_dict
from tests.golden.deterministic import det_array
from tests.small_rq import logits_of, make_quantizer, with_embed

FOLDER = pathlib.Path(__file__).parents[1] / "golden" / "rq" / "rqtransformer_options"
META = json.loads((FOLDER / "meta.json").read_text())
CASES = META["cases"]


class Likeliest(Draws):
    """Greedy draws without the filters, which take longer than all the rest where nothing is compiled."""

    def draw(self, stream, keys, logits):
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def of_case(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The `arch` section and the state dict of a case; meta.json has where its shapes are not those of the first."""
    case = CASES[name]
    shapes = CASES[""]["param_shapes"] | case["param_shapes"]
    arch = META["config"] | case["config"]
    state_dict = {key: det_array(key, shape) for key, shape in shapes.items() if shape is not None}
    if "tok_emb.offsets" in state_dict:
        state_dict["tok_emb.offsets"] = arch["vocab_size"] * np.arange(arch["block_size"][2])
    return arch, state_dict


@pytest.fixture(scope="module")
def figures():
    with np.load(FOLDER / "data.npz") as data:
        return dict(data)


def made(name: str, figures: dict[str, np.ndarray]):
    """Our model of a case, its tokenizer's quantizer, labels and codes."""
    arch, state_dict = of_case(name)
    model = jax.tree.map(jnp.asarray, from_torch(state_dict, arch))
    size, dim = arch["vocab_size"], arch["input_embed_dim"]
    embed = det_array("quantizer.codebooks.0.weight", (size + 1, dim))[:size]
    quantizer = with_embed(make_quantizer((size,), dim, model.config.depth), embed)
    codes = jnp.asarray(figures[f"codes {model.config.depth}"], jnp.int32)
    return model, quantizer, jnp.asarray(figures["labels"], jnp.int32), codes


def chosen(name: str) -> bool:
    """Whether a case's logits are compared in each run of the tests; the slow proofs have all.

    Of the 32 combinations of flags it is eight in which each pair of flags has all of its four values.
    """
    flags = CASES[name]["config"]
    if set(FLAGS) != set(flags):
        return True
    given, head, summed, tokens, classes = (flags[flag] for flag in FLAGS)
    return tokens == (given != head) and classes == (given != summed)


def parameters(fast: Callable[[str], bool]):
    return [name if fast(name) else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", parameters(chosen))
def test_logits_equal_the_official_ones(name, figures):
    model, quantizer, labels, codes = made(name, figures)
    with jax.disable_jit():  # the programs differ from case to case, and each is small
        logits, _ = logits_of(model, quantizer, codes, labels)
    np.testing.assert_allclose(logits, figures[f"{name}/logits"], rtol=1e-4, atol=1e-5)


ALONE = ("", "no head", "no body", "blocks that differ")
"""Cases whose caches are compared in each run of the tests: each part of the code that samples is in one of them."""


@pytest.mark.parametrize("name", parameters(lambda name: name in ALONE))
def test_codes_drawn_with_caches_equal_the_official_ones(name, figures):
    model, quantizer, labels, codes = made(name, figures)
    flat = codes.reshape(len(codes), -1, codes.shape[-1])
    given = flat.at[:, 2:].set(-1)  # the upper of two rows
    likeliest = Likeliest(**vars(draws_of(Draw(), model.config.streams)))
    for kept, kind in ((None, "drawn"), (given, "completed")):
        with jax.disable_jit():
            ids = model.condition.ids(labels)
            drawn = sample.generate(model.network, quantizer, ids, kept, jax.random.key(0), likeliest)
        np.testing.assert_array_equal(drawn.reshape(codes.shape), figures[f"{name}/{kind}"])


@pytest.mark.parametrize("name", CASES)
def test_state_dicts_go_there_and_back_bit_for_bit(name):
    arch, state_dict = of_case(name)
    model = from_torch(state_dict, arch)
    back = to_torch(model)
    assert set(back) == set(state_dict)
    for key, tensor in state_dict.items():
        assert back[key].dtype == tensor.dtype
        np.testing.assert_array_equal(back[key], tensor)
    assert from_dict(json.loads(json.dumps(to_dict(model.config)))) == model.config
