"""The page's drawing: images for the fields of its form, first by their coarsest codes, then with each finer level."""

import time
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from rqjax.api.filmstrip import level_names
from rqjax.api.inputs import whole_number
from rqjax.api.prior import LoadedPrior, number
from rqjax.demo.failures import in_one_line
from rqjax.demo.upload import Picture

COUNTS = (1, 4, 16)
"""Numbers of images that the form offers: each compiles one program, at its first use."""
LONGEST = 1000
"""Letters of a caption."""
Film: TypeAlias = list[tuple[Picture, str]]
"""The pictures of the levels so far, each with its name."""


def draw(
    prior: LoadedPrior,
    said: Any,
    count: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    guidance: Any,
    seed: Any,
    *,
    pause: float = 0.0,
) -> Iterator[tuple[Picture | None, Film, str]]:
    """A picture of the images, those of all levels so far, and a line of text, once for each level of the codes.

    `said` is a class (name or id) or a caption, as the prior is led, else nothing; the other fields are those of
    LoadedPrior.generate. `pause` is in seconds, between two levels. Of what cannot be drawn there is the line alone.
    """
    try:
        made = prior.generate(
            **led_by(prior, said),
            count=whole_number(count, "count", 1, max(COUNTS)),
            seed=whole_number(seed, "seed", -(2**63), 2**63 - 1),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance=number(guidance, "guidance"),
            progress=False,
        )
        names, film = level_names(prior.tokenizer.model), []
        for depth, name in enumerate(names, start=1):
            if film:
                time.sleep(pause)
            picture = np.asarray(prior.tokenizer.decode(made.codes, depth=depth, progress=False).grid())
            film = [*film, (picture, name)]
            yield picture, film, f"level {depth} of {len(names)} ({name}), seed {seed}"
    except Exception as error:
        yield None, [], in_one_line(error)


def led_by(prior: LoadedPrior, said: Any) -> dict[str, Any]:
    """A class or a caption as an argument of LoadedPrior.generate; token ids for a prior without a vocabulary."""
    field = prior.described.condition.field
    if field is None:
        return {}
    if field != "text":
        return {"labels": said}
    text = str(said or "")[:LONGEST]
    if prior.run.vocabulary is None and text.replace(" ", "").isdecimal():
        return {"texts": [[int(word) for word in text.split()]]}
    return {"texts": [text]}
