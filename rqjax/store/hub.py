"""Models on a model hub, hf://OWNER/NAME or hf://OWNER/NAME@REVISION: folders in the form of store.model_folder.

The client of the hub is huggingface_hub, which the extra `hub` installs. It keeps what it has fetched in a cache of its
own, and knows who its user is.
"""

import contextlib
import dataclasses
import importlib
import os
import pathlib
import re
import sys
from collections.abc import Generator
from typing import Any

from rqjax.errors import InputError, printable
from rqjax.store import model_folder

SCHEME = "hf://"
TOKENIZER = "tokenizer"
"""The folder of a prior's tokenizer, in which the same files lie."""
FILES = (model_folder.CONFIG, f"{model_folder.MODEL}.safetensors", model_folder.LICENCE, "classes.json")
"""The files of a model's folder: no others of a repository are fetched."""
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(rf"hf://(?P<repository>{_NAME}/{_NAME})(@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,95}}))?")


@dataclasses.dataclass(frozen=True)
class Address:
    """A repository of the hub, at a branch, a tag or a commit; without a revision it is the newest."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises InputError for a text that is no address."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise InputError(
                f"{text[:200]} is no model of the hub: expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
            )
        return cls(**found.groupdict())

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def on_hub(name: str | os.PathLike[str]) -> bool:
    """Whether a name is meant for the hub."""
    return os.fspath(name).startswith(SCHEME)


def local(name: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The folder of a model of the hub on this machine, fetched if it is not there; every other name as it is.

    Raises InputError for what is not there or cannot be reached, and for repositories of other models, of which the
    configuration alone is fetched.
    """
    if not on_hub(name):
        return name
    address = Address.parse(os.fspath(name))
    client = _client(address)
    with _calling(client, address):
        folder = _fetch(client, address, (model_folder.CONFIG,))
    if not (folder / model_folder.CONFIG).is_file() or "stage" not in model_folder.ModelFolder(folder).config():
        raise InputError(f"{address} holds no model of rqjax: expected a repository that push() made")
    at_commit = Address(address.repository, folder.name)  # both calls see one commit, whoever pushes between them
    with _calling(client, address):
        return _fetch(client, at_commit, [*FILES, *(f"{TOKENIZER}/{file}" for file in FILES)])


def publish(folder: pathlib.Path, address: Address, message: str, private: bool | None) -> str:
    """Adds the files of a folder to a repository in one commit, and makes the repository if there is none.

    Returns the address of the commit. `private` is for a new repository; None leaves it to its owner's settings.
    """
    client = _client(address)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with _calling(client, address):
        api = client.HfApi(library_name="rqjax")
        api.create_repo(address.repository, private=private, exist_ok=True)
        added = [client.CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        made = api.create_commit(address.repository, added, revision=address.revision, commit_message=message)
    return str(Address(address.repository, made.oid))


def _fetch(client: Any, address: Address, files: Any) -> pathlib.Path:
    found = client.snapshot_download(
        address.repository, revision=address.revision, allow_patterns=list(files), library_name="rqjax"
    )
    return pathlib.Path(found)


def _client(address: Address) -> Any:
    """The module huggingface_hub, which not everybody has."""
    try:
        for name in ("errors", "utils"):
            importlib.import_module(f"huggingface_hub.{name}")
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise InputError(
            f"{address} is on a model hub, and huggingface_hub is not installed: install rqjax[hub]"
        ) from None


@contextlib.contextmanager
def _calling(client: Any, address: Address) -> Generator[None]:
    """Calls of the client: its progress bars are kept out of files and pipes, and its errors are one line each."""
    utils, errors = client.utils, client.errors
    silent = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if silent:
        utils.disable_progress_bars()
    try:
        yield
    except errors.RevisionNotFoundError:
        raise InputError(f"{address}: there is no such revision: name a branch, a tag or a commit") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{address} is not there, or not for everybody: look at its name, or log in (hf auth login)"
        ) from None
    except errors.HfHubHTTPError as error:
        remedy = "log in as somebody who may (hf auth login)" if _status(error) in (401, 403) else "try again later"
        raise InputError(f"{address}: the hub refuses ({_reason(error)}): {remedy}") from None
    except MemoryError:
        raise
    except Exception as error:  # of the network, whose errors belong to the client's own client
        raise InputError(f"{address} cannot be reached ({_reason(error)}): look at the network and the disk") from None
    finally:
        if silent:
            utils.enable_progress_bars()


def _status(error: Any) -> int | None:
    return getattr(error.response, "status_code", None)


def _reason(error: Exception) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__, 160)
