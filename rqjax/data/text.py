"""Captions to token ids: byte-pair encoding by characters, in the conventions of the official bpe16k vocabulary.

Ids 0 and 1 are [PAD] and [UNK]; there is no token of start or end. Text is cleaned and lower-cased, accents stay; words
are split at white space and around punctuation, and end with </w>. Merging is done here and not by the library, whose
dropout draws without a seed.
"""

import functools
import importlib
import importlib.util
import itertools
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from rqjax.errors import InputError, printable
from rqjax.files import read_regular

PAD, UNKNOWN = "[PAD]", "[UNK]"
END = "</w>"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
LONGEST_WORD = 200
"""Characters of a word that are read: the time to merge them grows with their square."""
LONGEST = 2**14
"""Characters of a text that are read, far more than any number of tokens that a model takes."""
CACHED = 2**16
"""Words whose tokens are remembered."""
_BYTES = 2**27
_SPECIAL = re.compile(f"({re.escape(PAD)}|{re.escape(UNKNOWN)})")


class Vocabulary:
    """Tokens by their text, and the pairs that merge, the earliest first.

    Raises InputError unless ids are 0, 1, ... with [PAD] and [UNK] first, and every merge makes a token of two.
    """

    def __init__(self, tokens: Mapping[str, int], merges: Sequence[tuple[str, str]], name: str = "the vocabulary"):
        check_installed()
        if (tokens.get(PAD), tokens.get(UNKNOWN)) != (0, 1):
            raise InputError(f"{name} has {PAD} and {UNKNOWN} not as ids 0 and 1: expected the bpe16k conventions")
        if sorted(tokens.values()) != list(range(len(tokens))):
            raise InputError(f"{name} has {len(tokens)} tokens whose ids are not 0 to {len(tokens) - 1}: it is damaged")
        check_merges(tokens, merges, name)
        self.tokens, self.merges = dict(tokens), tuple(merges)
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._seen: dict[str, list[int]] = {}

    @classmethod
    def read(cls, path: str | pathlib.Path) -> "Vocabulary":
        """That of a folder with one file that ends in vocab.json and one that ends in merges.txt.

        Raises InputError if there are none, or several, and if they are damaged or belong to different vocabularies.
        """
        folder = pathlib.Path(path).expanduser()
        return cls.parsed(contents(folder), str(folder))

    @classmethod
    def parsed(cls, content: Mapping[str, str], name: str) -> "Vocabulary":
        """That of the content of vocab.json and merges.txt, by these names, from the place `name`."""
        return cls(*tables(content, name), name)

    def files(self) -> dict[str, str]:
        """The content of its two files by name, as read() takes them."""
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        return {
            VOCABULARY: json.dumps(self.tokens, ensure_ascii=False),
            MERGES: "\n".join(lines) + "\n",
        }

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and (self.tokens, self.merges) == (other.tokens, other.merges)

    __hash__ = None  # pyrefly: ignore  (a mapping)

    def ids(
        self, text: str, length: int, dropout: float = 0.0, generator: np.random.Generator | None = None
    ) -> Int[np.ndarray, "{length}"]:
        """The first `length` tokens of a text, padded with 0.

        With a `generator`, each merge that is possible is left out with the probability `dropout`, anew at every step
        (Provilkov et al. 2020, algorithm 1).
        """
        found: list[int] = []
        for word in words(text):
            if len(found) >= length:
                break
            found += self._merged(word, generator, dropout) if generator and dropout else self._known(word)
        return np.pad(np.array(found[:length], np.int32), (0, max(0, length - len(found))))

    def _known(self, word: str) -> list[int]:
        """The tokens of a word without dropout, which are looked up if they were asked for before."""
        if word not in self._seen:
            if len(self._seen) >= CACHED:
                self._seen.clear()
            self._seen[word] = self._merged(word, None, 0.0)
        return self._seen[word]

    def _merged(self, word: str, generator: np.random.Generator | None, dropout: float) -> list[int]:
        if word in (PAD, UNKNOWN):
            return [self.tokens[word]]
        parts = [*word[:-1], word[-1] + END]
        unknown = self.tokens[UNKNOWN]
        while True:
            pairs = [(self._ranks.get(pair), i) for i, pair in enumerate(itertools.pairwise(parts))]
            possible = [(rank, i) for rank, i in pairs if rank is not None]
            if generator is not None:
                possible = [pair for pair in possible if generator.random() >= dropout]
            if not possible:
                return [self.tokens.get(part, unknown) for part in parts]
            _, i = min(possible)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]


def words(text: str) -> Iterator[str]:
    """The words of a text in order, cleaned and in lower case; [PAD] and [UNK] as they are."""
    normalizer, splitter = _rules()
    for part in _SPECIAL.split(text[:LONGEST]):
        if part in (PAD, UNKNOWN):
            yield part
        else:
            for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(part)):
                yield word[:LONGEST_WORD]


def tables(content: Mapping[str, str], name: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The tokens with their ids, and the merges, of the content of vocab.json and merges.txt from the place `name`.

    Raises InputError if they are damaged.
    """
    try:
        tokens: Any = json.loads(content[VOCABULARY])
        tokens = {str(token): int(index) for token, index in tokens.items()}
        lines = [line for line in content[MERGES].split("\n") if line.strip() and not line.startswith("#version")]
        merges = [(first, second) for first, second in (line.rstrip("\r").split(" ") for line in lines)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name} holds no vocabulary ({error}): expected ids of tokens, and two a line") from error
    return tokens, merges


def check_merges(tokens: Mapping[str, int], merges: Sequence[tuple[str, str]], name: str) -> None:
    """Raises InputError unless every merge makes a token of two."""
    if wrong := next((x for x in merges if not {*x, "".join(x)} <= tokens.keys()), None):
        raise InputError(f"{name} has no token for the merge {' '.join(wrong)!r}: its two files belong to others")


def check_installed() -> None:
    """Raises InputError without the library that splits texts."""
    if not importlib.util.find_spec("tokenizers"):
        raise InputError("captions need the package tokenizers, which is not installed: install rqjax[text]")


@functools.cache
def _rules() -> tuple[Any, Any]:
    """The clean-up of BERT without its loss of accents, then lower case; and its split into words."""
    normalizers: Any = importlib.import_module("tokenizers.normalizers")
    splitters: Any = importlib.import_module("tokenizers.pre_tokenizers")
    clean = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False)
    return normalizers.Sequence([clean, normalizers.Lowercase()]), splitters.BertPreTokenizer()


def contents(folder: pathlib.Path) -> dict[str, str]:
    """The texts of a folder's one file that ends in vocab.json and the one that ends in merges.txt, by these names.

    Raises InputError if there are none, or several, or if they cannot be read.
    """
    return {ending: _only(folder, ending) for ending in (VOCABULARY, MERGES)}


def _only(folder: pathlib.Path, ending: str) -> str:
    """The text of the one file of a folder with that ending."""
    found = sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []
    if len(found) != 1:
        names = ", ".join(printable(path.name, 60) for path in found[:3]) or "none"
        raise InputError(
            f"{folder} has {names} that ends in {ending}: expected a folder with one of {VOCABULARY} and {MERGES} each"
        )
    try:
        return read_regular(found[0], _BYTES).decode()
    except (OSError, ValueError) as error:
        raise InputError(f"{found[0]} cannot be read ({error}): expected a text in UTF-8") from error
