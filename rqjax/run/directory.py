"""A run directory, opened: its configuration, its model, its tokenizer and their licences."""

import contextlib
import functools
import os
import pathlib
import types
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from rqjax.data.text import Vocabulary
from rqjax.errors import InputError, in_words, printable
from rqjax.interface import TokenizerConfig
from rqjax.mesh import with_sharding
from rqjax.nets.precision import INT8, in_precision, made_in
from rqjax.run import words
from rqjax.run.config import Config, from_dict, to_dict, without_paths
from rqjax.run.dataset import class_names, write_class_names
from rqjax.run.versions import places
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig
from rqjax.store import hub, model_folder, stored
from rqjax.store.checkpoint import Checkpoints
from rqjax.store.remote import Path, to_path

TOKENIZER = "tokenizer"
"""The folder in which a prior's run directory keeps the tokenizer that it was trained on: a run directory itself."""
BEST = "best"
"""The folder in which a run's directory keeps the model with the least loss on held-out images: one itself."""
T = TypeVar("T")


class Run:
    """The newest checkpoint of a run directory, or a model's folder (store.model_folder), which serves as one."""

    def __init__(self, path: Path, content: stored.Stored):
        self.path = path
        self._content = content

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """The run at `path`, which may be hf://OWNER/NAME. Raises InputError if there is none."""
        run = cls.find(hub.local(path))
        if run is None:
            raise InputError(
                f"{path} holds no checkpoint: expected a run directory, of `rqjax train` or `rqjax convert`"
            )
        return run

    @classmethod
    def find(cls, path: str | os.PathLike[str]) -> "Run | None":
        content = stored.find(path)
        return None if content is None else cls(to_path(path), content)

    def _read(self, read: Callable[[stored.Stored], T]) -> T:
        """The result of `read` for the content; another process may train beside this one, and delete it meanwhile."""
        self._content, result = stored.newest(self.path, self._content, read)
        return result

    @functools.cached_property
    def config(self) -> Config:
        """The configuration that made it. Raises InputError if it is damaged, or that of something else."""
        with _describing(self.path):
            config = from_dict(self._read(lambda content: content.config()))
        if not isinstance(config, Config):
            raise InputError(
                f"{self.path} holds a {type(config).__name__}: expected a run directory that `rqjax train` wrote"
            )
        with _describing(self.path):
            config.stage.model.check()
        return config

    @property
    def home(self) -> Path:
        """The directory with what belongs to all models of a run: of `best` the one around it, else `path`."""
        around = self.path.parent
        return around if self.path.name == BEST and (around / "config.json").is_file() else self.path

    @property
    def step(self) -> int:
        """Finished steps; 0 for a model's folder."""
        return self._content.step

    def has(self, name: str) -> bool:
        """Whether the field `name` of the training state is kept."""
        return self._content.has(name)

    def item(self, name: str, like: T) -> T:
        """A field of the training state in the structure of `like` (shapes), placed as they say."""
        return self._read(lambda content: content.item(name, like, places))

    def weights(self, like: T, *, ema: bool = True) -> T:
        """The model in the structure of `like` (shapes); its averaged weights where `ema` and the run kept them."""
        return self.item("ema" if ema and self.has("ema") else "model", like)

    def model(self, *, ema: bool = True, dtype: str | None = None) -> Any:
        """The model as its configuration describes it: a Tokenizer, a Prior or a Classifier.

        A prior may compute in another `dtype` of nets.precision, and have its parameters in it, but for its norms.
        Those of int8 are made on the host, so that a device never holds them as floats.
        """
        floats = None if dtype == INT8 else dtype
        with _describing(self.path):
            like = jax.eval_shape(lambda key: made_in(self.config.stage.model, key, floats), jax.random.key(0))
        if dtype != INT8:
            return self.weights(like, ema=ema)
        here = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        made = jax.device_get(in_precision(self.weights(with_sharding(like, here), ema=ema), INT8))
        return jax.tree.map(jnp.asarray, made)

    @functools.cached_property
    def kept_tokenizer(self) -> "Run | None":
        """The tokenizer that a prior's run directory keeps; None for other runs."""
        return Run.find(self.home / TOKENIZER)

    def tokenizer(self) -> "Run":
        """This run if it is a tokenizer's, else that of the tokenizer it keeps. Raises InputError if it keeps none."""
        if not isinstance(self.config.stage, PredictConfig):
            return self
        if self.kept_tokenizer is None:
            raise InputError(
                f"{self.path} holds a prior without its tokenizer: pass --tokenizer DIR, the one it was trained on"
                " (in Python: tokenizer=DIR)"
            )
        return self.kept_tokenizer

    @property
    def tokenizer_config(self) -> TokenizerConfig:
        """The configuration of the tokenizer that this run trained. Raises InputError if it trained something else."""
        stage = self.config.stage
        if not isinstance(stage, AutoencodeConfig):
            raise InputError(f"{self.path} holds a {type(stage.model).__name__}: expected the run of a tokenizer")
        return stage.model

    def check_tokenizer(self, tokenizer: "Run") -> None:
        """Raises InputError if this run's prior cannot model the codes of another run's tokenizer."""
        stage = self.config.stage
        if not isinstance(stage, PredictConfig):
            raise InputError(f"{self.path} holds a {type(stage.model).__name__}: expected the run of a prior")
        stage.model.check_tokenizer(tokenizer.tokenizer_config)

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of the data that it was trained on, by label; none if they are not known."""
        return class_names(self.home)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary of the captions that it was trained on; None if it keeps none."""
        return words.kept(self.home)

    @property
    def licence(self) -> str:
        """The licence recorded beside the model; empty if there is none."""
        return model_folder.read_licence(self.home)

    @property
    def licences(self) -> list[str]:
        """The licences of the model and of the tokenizer that it keeps, each once."""
        runs = filter(None, (self, self.kept_tokenizer))
        return list(dict.fromkeys(filter(None, (run.licence for run in runs))))

    def write(self, target: str | os.PathLike[str], model: object) -> None:
        """Writes `model`, which is this run's, as a run directory: same step, configuration, classes and licence."""
        with Checkpoints(target, every=1, keep=1) as saves:
            saves.save(self.step, types.SimpleNamespace(model=model), to_dict(self.config), force=True)
        model_folder.write_licence(target, self.licence)
        write_class_names(target, self.classes)
        words.write(target, words.files(self.home))

    def export(self, folder: pathlib.Path, *, ema: bool = True, licence: str = "", paths: bool = True) -> None:
        """Writes its model as a folder (store.model_folder), under the recorded licence, or `licence` if there is none.

        Without `paths` the configuration does not tell the places of files, which name a machine and its user.
        """
        config = to_dict(self.config if paths else without_paths(self.config))
        model_folder.save(folder, config, {"model": self.model(ema=ema)}, self.licence or licence)
        write_class_names(folder, self.classes)
        words.write(folder, words.files(self.home))


@contextlib.contextmanager
def _describing(path: Path) -> Generator[None]:
    """Turns every error of a configuration in a run directory, which may be a stranger's, into one line."""
    try:
        yield
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from None
    except Exception as error:  # values that no check knows, deep in a network
        reason = printable(in_words(error), 200)
        raise InputError(
            f"{path}: its configuration makes no model ({reason}): it is damaged, or changed by hand"
        ) from None
