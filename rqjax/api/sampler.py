"""Images of a prior, batch by batch: each has a key of its own, from its place among them all."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, Key, UInt8

from rqjax.api.batches import Batches
from rqjax.api.inputs import FoundCodes
from rqjax.api.pixels import decoded
from rqjax.dq.transformer import DQTransformer
from rqjax.interface import Codes, Prior, Tokenizer
from rqjax.nets.guidance import Guidance
from rqjax.nets.sampling import Draw


def sample(
    batches: Batches,
    prior: Prior,
    tokenizer: Tokenizer,
    values: Int[np.ndarray, "n ..."],
    key: Key[Array, ""],
    draws: Draw | Sequence[Draw],
    *,
    guidance: Guidance | None = None,
    given: FoundCodes | None = None,
    fixed_positions: bool = True,
    first: int = 0,
    progress: str = "",
) -> tuple[UInt8[np.ndarray, "n h w 3"], FoundCodes]:
    """An image and its codes for each of the condition's `values`, or the completions of `given` codes.

    They have the places from `first` on. The models are whole on every device of `batches`. `fixed_positions` is for DQ
    priors, see DQTransformer.generate.
    """
    more: dict[str, Any] = {"fixed_positions": fixed_positions} if isinstance(prior, DQTransformer) else {}

    def drawn(
        places: Int[Array, "b"], values: Int[Array, "b ..."], *kept: Codes
    ) -> tuple[UInt8[Array, "b h w 3"], Codes]:
        more["given"] = kept[0] if kept else None
        codes = prior.generate(tokenizer, values, _keys(key, places), draws, guidance=guidance, **more)
        return decoded(tokenizer, codes), codes

    places = np.arange(first, first + len(values), dtype=np.int32)
    trees: list[Any] = [places, values] if given is None else [places, values, given]
    made: Any = batches.run(drawn, *trees, progress=progress)
    return made


@jax.jit
def _keys(key: Key[Array, ""], places: Int[Array, "b"]) -> Key[Array, "b"]:
    """The key of the image at each place: a function of the two alone."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places)
