"""The model card of a run: a page in Markdown whose head a model hub reads, and everything in it from the run."""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import yaml

from rqjax.errors import printable
from rqjax.interface import PriorConfig
from rqjax.run.config import to_dict
from rqjax.run.dataset import Dataset, few
from rqjax.run.directory import Run
from rqjax.run.log import read_metrics
from rqjax.run.validation import PREFIX
from rqjax.stages.predict import PredictConfig

FILE = "README.md"
_KNOWN = """
apache-2.0 mit bsd-2-clause bsd-3-clause cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-sa-4.0
cc-by-nc-nd-4.0 cc-by-3.0 cc-by-sa-3.0 gpl-2.0 gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 openrail unlicense
"""
LICENCES = frozenset(_KNOWN.split())
"""The names of licences that the hub knows and weights are likely to have; others are "other" there, by name."""


def card(run: Run, tokenizer: Run, address: str, codes: str, licences: list[str]) -> str:
    """The page of a run's model at `address`; `tokenizer` is the run itself or, of a prior, that of its tokenizer."""
    prior = isinstance(run.config.stage, PredictConfig)
    name = address.split("@")[0].rpartition("/")[2]
    head = yaml.safe_dump(_head(run, licences), sort_keys=False, allow_unicode=True)
    facts = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in _facts(run, tokenizer, codes).items())
    settings = yaml.safe_dump(to_dict(run.config.stage.model), sort_keys=False, allow_unicode=True)
    kind = "prior over the codes of a tokenizer, which is in the folder `tokenizer`" if prior else "tokenizer of images"
    parts = (
        f"---\n{head}---\n",
        f"# {name}\n",
        f"A {kind}, trained with rqjax.\n",
        f"| | |\n|---|---|\n{facts}\n",
        f"## Use\n\n```python\n{_use(run, address)}\n```\n",
        f"## Figures\n\n{_figures(run)}\n",
        f"## Licence\n\n{'; '.join(map(_cell, licences))}\n",
        f"## Configuration\n\n```yaml\n{settings}```\n",
    )
    return "\n".join(parts)


def _head(run: Run, licences: list[str]) -> dict[str, Any]:
    """The fields that a hub looks for."""
    known = re.sub(r"\s+", "-", licences[0].strip().lower()) if len(licences) == 1 else ""
    named = {"license": known} if known in LICENCES else {}
    other = {"license": "other", "license_name": _slug("-and-".join(licences)), "license_link": "licence.txt"}
    stage = run.config.stage
    texts = isinstance(stage, PredictConfig) and stage.model.condition.field == "text"
    task = "text-to-image" if texts else "unconditional-image-generation"
    made = {"pipeline_tag": task} if isinstance(stage, PredictConfig) else {}
    kind = type(stage.model).__name__.removesuffix("Config").lower()
    return {**(named or other), "library_name": "rqjax", **made, "tags": ["rqjax", "jax", kind]}


def _facts(run: Run, tokenizer: Run, codes: str) -> dict[str, str]:
    """The table of the page."""
    config, described = run.config, tokenizer.tokenizer_config
    made = jax.eval_shape(config.stage.model.init, jax.random.key(0))
    data, dataset = config.data, Dataset.read(run.home)
    held = f", {dataset.images:,} images" if dataset else ""
    facts = {
        "model": f"{type(made).__name__}, {sum(math.prod(x.shape) for x in jax.tree.leaves(made)):,} numbers",
        "images": f"{described.resolution}x{described.resolution} pixels",
        "codes": codes,
        "trained on": f"{data.dataset or data.name}, split {data.split}{held}",
        "steps": f"{run.step:,} of {config.steps:,}, {data.batch} images each" if run.step else "not recorded",
    }
    if isinstance(model := config.stage.model, PriorConfig):
        led = {"text": f"texts of up to {model.condition.length} token ids", None: "nothing"}
        facts["led by"] = led.get(model.condition.field, f"{model.condition.choices} classes")
        facts["guidance"] = "yes" if model.condition_dropout else "no: it was trained with its condition at all times"
    if run.classes:
        facts["classes"] = few(run.classes)
    return facts


def _use(run: Run, address: str) -> str:
    """Three lines of Python."""
    stage = run.config.stage
    if not isinstance(stage, PredictConfig):
        size = run.tokenizer_config.resolution
        lines = (
            f'tokenizer = rqjax.load("{address}")',
            f"codes = tokenizer.encode(images)  # {size}x{size}: PIL, uint8, or floats in [-1, 1]",
            'tokenizer.decode(codes).save("x.png")',
        )
    else:
        asked = {"text": "texts=[[1, 2, 3]], ", None: ""}.get(stage.model.condition.field, "labels=[0], ")
        lines = (f'prior = rqjax.load("{address}")', f'prior.generate({asked}count=16, seed=0).save("x.png")')
    return "\n".join(("import rqjax", "", *lines))


def _figures(run: Run) -> str:
    """The figures on held-out images that the run kept, at the newest step up to that of its weights."""
    if (found := measured(run)) is None:
        return "None were measured on held-out images while it was trained."
    step, figures = found
    rows = "\n".join(f"| {_cell(name.replace('_', ' '))} | {value:.4g} |" for name, value in figures.items())
    return f"On held-out images, at step {step:,}:\n\n| | |\n|---|--:|\n{rows}"


def measured(run: Run) -> tuple[int, Mapping[str, float]] | None:
    """The step and the figures of the last validation that the weights of a run have seen; None if there was none."""
    found = None
    for line in read_metrics(run.home):
        figures = {name: value for name, value in line.items() if name.startswith(PREFIX) and value is not None}
        if figures and (line["step"] or 0) <= run.step:
            found = int(line["step"] or 0), {name.removeprefix(PREFIX): float(x) for name, x in figures.items()}
    return found


def _cell(text: str) -> str:
    """Foreign text in a line or a table's cell: nothing in it is read as Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&])", r"\\\1", printable(text, 400))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")[:80] or "other"
