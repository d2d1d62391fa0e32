"""The official configuration files: which model of ours each describes, and the run that trained it."""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

from rqjax.dq.convolutions import DQVAEConfig
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.errors import InputError, printable
from rqjax.files import read_regular
from rqjax.official import recipes
from rqjax.official.dqtransformer import dqtransformer_config
from rqjax.official.dqvae import dqvae_config
from rqjax.official.rqtransformer import rqtransformer_config
from rqjax.official.rqvae import rqvae_config
from rqjax.official.section import Section
from rqjax.official.thresholds import RELEASED, Entropy
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run.config import Config

RQ_LICENCE = "CC-BY-NC-SA-4.0"
"""Under which kakaobrain publishes the weights of its RQ models: not for commercial use."""
TARGETS = {"cross_entropy": "hard", "soft_target_cross_entropy": "soft"}
"""Our targets by the `type` of the section `loss`; the first is the official default."""
ModelConfig = RQVAEConfig | RQTransformerConfig | DQVAEConfig | DQTransformerConfig


@dataclasses.dataclass(frozen=True)
class Official:
    """The model and the training that an official configuration file describes."""

    model: ModelConfig
    run: Config  # that trained it: the published recipe of its family, with the values of the file
    licence: str = ""  # of the published weights, where it is known
    tokenizer: "Official | None" = None  # the first stage, which a DQ prior's file describes too


UNREADABLE = (yaml.YAMLError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""With what PyYAML meets a value that does not have the form of its tag, or a file that is no YAML."""


YAML_BYTES = 2**17
"""The longest file, thirty times the official ones: a kilobyte takes PyYAML a hundredth of a second."""


class _Loader(yaml.SafeLoader):
    """YAML as the official programs read it: 4e-5 is a number, though YAML 1.1 asks for a point and a sign.

    Aliases, which no official file has, are refused: a few lines of them make a document that never ends.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"it uses an alias, *{self.peek_event().anchor}")
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {key: list(pairs) for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, object]:
    """The sections of a YAML file. Raises InputError if it is none, or cannot be read."""
    try:
        text = read_regular(path, YAML_BYTES).decode()
    except (OSError, ValueError) as error:
        reason = printable(error, 200)
        raise InputError(f"{os.fspath(path)} cannot be read ({reason}): give the official config.yaml") from None
    try:
        found = yaml.load(text, _Loader)  # a SafeLoader
    except UNREADABLE as error:
        reason = printable(" ".join(str(error).split()), 200)
        raise InputError(f"{os.fspath(path)} is not YAML ({reason}): give the official config.yaml") from None
    if not isinstance(found, dict):
        raise InputError(f"{os.fspath(path)} holds no sections: give the official config.yaml of the model")
    return found


def read(document: Mapping[str, object], entropy: Entropy = RELEASED) -> Official:
    """The model and the training of an official file's sections, the official defaults filled in.

    `entropy` says of an entropy router what the file does not.
    Raises InputError naming every unknown key, and for values that we do not support.
    """
    top = Section(document, "")
    if top.has("arch"):
        return _read_rq(top, Section(document["arch"], "arch"))
    if not top.has("model"):
        raise InputError("this config has no section `arch` (RQ) and none `model` (DQ): give an official one")
    top.ignore("data", "lightning")
    top.finish()
    section = Section(document["model"], "model")
    if not section.text("target").endswith("Dualformer"):
        model = dqvae_config(section.options, entropy=entropy)
        return Official(model, recipes.dqvae_run(model, section))
    first = section.section("params").section("first_stage_config")
    model, tokenizer = dqtransformer_config(section.options), dqvae_config(first.options, first.place, entropy)
    described = Official(tokenizer, recipes.dqvae_run(tokenizer, first))
    return Official(model, recipes.dqtransformer_run(model, tokenizer, section), tokenizer=described)


def model_config(section: object, entropy: Entropy = RELEASED) -> ModelConfig:
    """Our configuration of the model in an `arch` section (RQ, `vocab_size` filled in) or a `model` section (DQ).

    `entropy` says of an entropy router what the section does not.
    Raises InputError naming every unknown key, and for values that we do not support.
    """
    top = Section(section, "the section of the model")
    if top.has("target"):
        prior = top.text("target").endswith("Dualformer")
        return dqtransformer_config(section) if prior else dqvae_config(section, entropy=entropy)
    prior = top.text("type", choices=("rq-vae", "rq-transformer")) == "rq-transformer"
    return rqtransformer_config(section) if prior else rqvae_config(section)


def _read_rq(top: Section, arch: Section) -> Official:
    top.ignore("vqvae", "runtime", "seed")
    if arch.text("type", "") == "rq-transformer":
        top.ignore("gan")
        model = _rqtransformer(top, arch)
        run = recipes.rqtransformer_run(model, top)
    else:
        top.ignore("loss")
        model = rqvae_config(arch.options)
        run = recipes.rqvae_run(model, top, arch.section("hparams").text("loss_type", "l1"))
    top.finish()
    return Official(model, run, RQ_LICENCE)


def _rqtransformer(top: Section, arch: Section) -> RQTransformerConfig:
    """The prior of a file, of which the sections `dataset` and `loss` say something too."""
    data, options = top.section("dataset", optional=True), arch.options
    if data.has("vocab_size"):
        sizes = data.each("vocab_size", Section.whole)
        if arch.has("vocab_size") and (ours := arch.each("vocab_size", Section.whole)) != sizes:
            raise InputError(f"arch.vocab_size is {ours}, dataset.vocab_size is {sizes}: correct one")
        options = options | {"vocab_size": sizes}
    config = rqtransformer_config(options)
    loss = top.section("loss", optional=True)
    config = dataclasses.replace(
        config,
        target=TARGETS[loss.text("type", "cross_entropy", choices=TARGETS)],
        temperature=loss.number("temp", 1.0),
        stochastic=loss.flag("stochastic_codes", False),
        image_loss_weight=loss.number("img_weight", config.image_loss_weight),
        text_loss_weight=loss.number("txt_weight", config.text_loss_weight),
    )
    loss.check(config.check, temperature="temp", image_loss_weight="img_weight", text_loss_weight="txt_weight")
    return config
