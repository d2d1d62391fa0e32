"""A prior opened from a run directory: new images of classes, of texts or of nothing, or the completion of codes."""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from rqjax.api.batches import Batches
from rqjax.api.conditions import Labels, Texts, values_of
from rqjax.api.inputs import GivenCodes, code_arrays, whole_number
from rqjax.api.loaded import LoadedModel, LoadedTokenizer
from rqjax.api.memory import Plan
from rqjax.api.pictures import Pictures
from rqjax.api.rejection import Rejection
from rqjax.api.request import Request, best_of
from rqjax.api.sampler import sample
from rqjax.checks import one_of
from rqjax.errors import InputError, printable
from rqjax.interface import Prior, PriorConfig, Tokenizer
from rqjax.nets.decoding import unrolled
from rqjax.nets.guidance import Guidance
from rqjax.nets.precision import PRECISIONS, computing_in
from rqjax.nets.sampling import Draw, draws_of
from rqjax.run.dataset import few
from rqjax.run.directory import Run
from rqjax.stages.predict import PredictConfig

Numbers: TypeAlias = Any
"""A number for all streams of a prior, or one for each: its depths (RQ), or contents and positions (DQ)."""


class LoadedPrior(LoadedModel):
    """A trained prior with its tokenizer: images of classes, of texts or of nothing, in any number."""

    model: Prior

    def __init__(
        self,
        run: Run,
        batches: Batches,
        *,
        ema: bool = True,
        tokenizer: Run | None = None,
        dtype: str | None = None,
    ):
        super().__init__(run, batches, ema=ema)
        if dtype is not None:
            one_of(PRECISIONS, dtype=dtype)
        self._tokenizer_run, self.dtype = tokenizer, dtype

    @functools.cached_property
    def tokenizer(self) -> LoadedTokenizer:
        """The tokenizer that it was trained on, or the one that was named. Raises InputError if there is none."""
        run = self._tokenizer_run or self.run.tokenizer()
        self.run.check_tokenizer(run)
        return LoadedTokenizer(run, self._batches)

    @functools.cached_property
    def _decoder(self) -> Tokenizer:
        """The tokenizer on every device, as it makes the pixels of new images."""
        return computing_in(self.tokenizer.everywhere, self.dtype)

    @property
    def described(self) -> PriorConfig:
        """The configuration of the model."""
        return self.settings.model

    @property
    def settings(self) -> PredictConfig:
        """How the run draws unless told otherwise: `temperature`, `top_k`, `top_p` and `guidance`, as its previews."""
        stage = self.config.stage
        assert isinstance(stage, PredictConfig)  # load() looked
        return stage

    @property
    def resolution(self) -> int:
        """The side of its images, in pixels."""
        return self.tokenizer.resolution

    @property
    def licences(self) -> list[str]:
        """The licences of its weights and of its tokenizer's, each once."""
        return list(dict.fromkeys([*self.run.licences, *self.tokenizer.run.licences]))

    def generate(
        self,
        labels: Labels = None,
        texts: Texts = None,
        *,
        count: int = 1,
        seed: int = 0,
        temperature: Numbers | None = None,
        top_k: Numbers | None = None,
        top_p: Numbers | None = None,
        guidance: float | Guidance | None = None,
        given: GivenCodes | None = None,
        fixed_positions: bool = True,
        scorer: Any = None,
        acceptance: float | None = None,
        progress: bool = True,
    ) -> Pictures:
        """`count` new images of each label or text, in that order; of all classes if none is named.

        `labels` are names or ids of classes, `texts` captions or lists of token ids; an unconditional prior takes none.
        `temperature`, `top_k` (0 keeps all) and `top_p` are numbers, or one for each depth (RQ), or for contents and
        positions (DQ). `guidance` above 1 needs a prior trained with condition_dropout. What is None of these four is
        the run's own, as in its previews (see `settings`). `given` are codes that stay, with -1 for those to be drawn
        (see LoadedTokenizer.keep), one image for each label, or label for all. `fixed_positions` is for DQ: the finest
        grain takes all that is left, in order. With a `scorer` (a classifier from rqjax.load, or a function, see
        api.rejection.Scorer) `count` / `acceptance` images of each are drawn, and the best `count` stay, the best
        first; `acceptance` is 0.25 if not given.

        The seed and the place in the order decide an image, whatever the number of others and of devices. The first
        call for a number of images compiles; other settings, labels and seeds compile nothing. Raises InputError for
        input that the model does not take, before anything is computed.
        """
        own = self.settings
        draw = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        draw = {name: getattr(own, name) if value is None else value for name, value in draw.items()}
        draws = draws_by_stream(self.described.streams, **draw)
        guidance = own.guidance if guidance is None else guidance
        guidance = guidance if isinstance(guidance, Guidance) else Guidance(scale=number(guidance, "guidance"))
        judge = {"scorer": scorer, "acceptance": acceptance}
        request = self.request(labels, texts, count, seed, draws, guidance, given, fixed_positions, **judge)
        return self.draw(request, progress=progress)

    def request(
        self,
        labels: Labels,
        texts: Texts,
        count: int,
        seed: int,
        draws: Sequence[Draw],
        guidance: Guidance,
        given: GivenCodes | None = None,
        fixed_positions: bool = True,
        *,
        scorer: Any = None,
        acceptance: float | None = None,
    ) -> Request:
        """The request of generate(). Raises InputError for what cannot be; weights are read for `given` alone."""
        prior = self.described
        count = whole_number(count, "count", 1)
        seed = whole_number(seed, "seed", -(2**63), 2**63 - 1)
        draws_of(draws, prior.streams)
        guidance.check(prior.condition.field, prior.condition_dropout)
        codes, images = None, None
        if given is not None:
            codes = code_arrays(given, self.tokenizer.model, -1, "given codes")
            images = len(jax.tree.leaves(codes)[0])
            self.model.check_given(codes, images)
            codes = jax.tree.map(lambda x: np.repeat(x, count, axis=0), codes)
        values, rows = values_of(labels, texts, prior.condition, self.classes, images, lambda: self.run.vocabulary)
        rejection = Rejection.checked(scorer, acceptance, prior, self.classes, lambda: self.resolution)
        groups, values = np.repeat(np.arange(len(values)), count), np.repeat(values, count, axis=0)
        return Request(values, rows, draws, guidance, seed, codes, fixed_positions, groups, rejection)

    def plan(self, request: Request) -> Plan:
        """The memory that drawing a request takes."""
        models, images = (self.model, self.tokenizer.model), len(request.candidates)
        return Plan.of(self._batches, *models, self.resolution, request.guidance.on, images)

    def draw(self, request: Request, *, progress: bool = True) -> Pictures:
        """The images of a request. Raises InputError if they do not fit the devices in such batches."""
        self.plan(request).check()
        draw = functools.partial(self._drawn, progress="drawn" if progress else "")
        return draw(request) if request.rejection is None else best_of(request, draw)

    def _drawn(self, request: Request, progress: str) -> Pictures:
        images, codes = sample(
            self._batches,
            self.everywhere,
            self._decoder,
            request.values,
            jax.random.key(request.seed),
            request.draws,
            guidance=request.guidance,
            given=request.given,
            fixed_positions=request.fixed_positions,
            first=request.first,
            progress=progress,
        )
        labels = request.values if request.values.ndim == 1 else None
        return Pictures(images=images, codes=codes, labels=labels, rows=request.rows)

    def _computing(self) -> Prior:
        return unrolled(self.model)

    def _coder(self) -> LoadedTokenizer:
        return self.tokenizer

    def _about(self) -> str:
        condition, size = self.described.condition, self.resolution
        led = {"text": f"led by texts of up to {condition.length} tokens", None: "led by nothing"}
        classes = f"of {condition.choices} classes" + (f": {few(self.classes)}" if self.classes else "")
        guided = "; takes guidance" if self.described.condition_dropout else ""
        return f"{size}x{size} images {led.get(condition.field, classes)}{guided}"


def draws_by_stream(streams: Sequence[str], temperature: Numbers, top_k: Numbers, top_p: Numbers) -> list[Draw]:
    """The settings of each stream, from a number for all or one for each. Raises InputError for others."""
    columns: dict[str, list[Any]] = {}
    for name, given in (("temperature", temperature), ("top_k", top_k), ("top_p", top_p)):
        values = list(given) if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) else [given]
        if len(values) not in (1, len(streams)):
            raise InputError(f"{name} has {len(values)} values: give one, or one for each of {', '.join(streams)}")
        read = [whole_number(x, name, 0) if name == "top_k" else number(x, name) for x in values]
        columns[name] = read * (len(streams) if len(read) == 1 else 1)
    return [Draw(**dict(zip(columns, each, strict=True))) for each in zip(*columns.values(), strict=True)]


def number(value: Any, name: str) -> float:
    """`value` as a float. Raises InputError for one that is no number."""
    if isinstance(value, bool | str):
        raise InputError(f"{name} is {printable(repr(value), 60)}: expected a number")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is a {type(value).__name__}: expected a number") from None
