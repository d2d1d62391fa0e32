"""Captions to the token ids that CLIP's text tower reads: byte pairs of letters in lower case (Radford et al. 2021).

Words are split at white space, numerals one by one, and punctuation from letters; the library `tokenizers` merges them.
As the transformers library does it: texts with HTML's escapes, or with letters decoded twice, are read as they stand,
which OpenAI's own code mends first.
"""

import hashlib
import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

from rqjax.data import text
from rqjax.data.text import MERGES, VOCABULARY
from rqjax.errors import InputError

TOKENS = 49408
"""Of the published vocabulary, the last two of which begin and end a text."""
START, END = "<|startoftext|>", "<|endoftext|>"
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""A piece of a text that merges by itself: an English ending, letters, a numeral, or anything else without spaces."""
REMEDY = "give the folder of vocab.json and merges.txt of huggingface.co/openai/clip-vit-base-patch32"


class ClipVocabulary:
    """The tokens of CLIP and the pairs that merge; `sha256` is that of its two files."""

    def __init__(self, content: Mapping[str, str], name: str):
        """Of the content of vocab.json and merges.txt, from the place `name`.

        Raises InputError for another vocabulary than CLIP's, and for damaged files.
        """
        tokens, merges = text.tables(content, name)
        found = (len(tokens), tokens.get(START), tokens.get(END))
        if found != (TOKENS, TOKENS - 2, TOKENS - 1) or sorted(tokens.values()) != list(range(TOKENS)):
            raise InputError(
                f"{name} has {len(tokens)} tokens, {START} as {found[1]} and {END} as {found[2]}: expected CLIP's"
                f" {TOKENS}, of which these are the last two; {REMEDY}"
            )
        text.check_merges(tokens, merges, name)
        self.sha256 = hashlib.sha256("".join(content[file] for file in (VOCABULARY, MERGES)).encode()).hexdigest()
        self._encode = _tokenizer(tokens, merges)

    @classmethod
    def read(cls, path: str | pathlib.Path) -> "ClipVocabulary":
        """That of a folder with vocab.json and merges.txt. Raises InputError if it has none, or another than CLIP's."""
        folder = pathlib.Path(path).expanduser()
        return cls(text.contents(folder), str(folder))

    def ids(self, caption: str) -> list[int]:
        """The tokens of a caption, however many, without those of start and end (nets.clip.token_rows adds these)."""
        return list(self._encode.encode(caption[: text.LONGEST]).ids)


def _tokenizer(tokens: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    text.check_installed()
    library: Any = importlib.import_module("tokenizers")
    cleaned, pieces = library.normalizers, library.pre_tokenizers
    pairs = library.models.BPE(tokens, merges, end_of_word_suffix=text.END, unk_token=END)
    found = library.Tokenizer(pairs)
    space = cleaned.Replace(library.Regex(r"\s+"), " ")
    found.normalizer = cleaned.Sequence([cleaned.NFC(), space, cleaned.Lowercase()])
    split = pieces.Split(library.Regex(SPLIT), behavior="removed", invert=True)
    found.pre_tokenizer = pieces.Sequence([split, pieces.ByteLevel(add_prefix_space=False, use_regex=False)])
    return found
