import json
import pathlib

import pytest

from rqjax.data.clip_text import END, START, TOKENS, ClipVocabulary
from rqjax.errors import InputError

PUBLIC = json.loads((pathlib.Path(__file__).parent.parent / "golden/metrics/clip/tokens.json").read_text())


def content():
    """The files of a vocabulary whose tokens, where the captions need none, have names without a meaning."""
    known = {index: token for token, index in PUBLIC["tokens"].items()} | {TOKENS - 2: START, TOKENS - 1: END}
    tokens = {known.get(index, f"(nothing {index})"): index for index in range(TOKENS)}
    return {"vocab.json": json.dumps(tokens), "merges.txt": "#version: 0.2\n" + "\n".join(PUBLIC["merges"]) + "\n"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("clip")
    for name, text in content().items():
        (place / name).write_text(text)
    return place


def test_tokens_are_those_of_the_public_implementation(folder):
    """In a part of the published vocabulary: cases, numerals, signs, other scripts, letters of several bytes."""
    vocabulary = ClipVocabulary.read(folder)
    for caption, ids in zip(PUBLIC["captions"], PUBLIC["ids"], strict=True):
        assert vocabulary.ids(caption) == ids, caption
    assert max(map(len, PUBLIC["ids"])) > 20


def test_words_for_start_and_end_in_a_caption_are_text(folder):
    assert not {TOKENS - 2, TOKENS - 1} & set(ClipVocabulary.read(folder).ids(f"{START} a {END}"))


def test_other_vocabularies_are_refused_in_one_line(folder, tmp_path):
    with pytest.raises(InputError, match=r"nowhere has none that ends in vocab\.json"):
        ClipVocabulary.read(tmp_path / "nowhere")
    good = content()
    bpe16k = {"vocab.json": json.dumps({"[PAD]": 0, "[UNK]": 1, "a</w>": 2}), "merges.txt": "#version: 0.2\n"}
    with pytest.raises(InputError, match=r"here has 3 tokens, <\|startoftext\|> as None .* expected CLIP's 49408"):
        ClipVocabulary(bpe16k, "here")
    with pytest.raises(InputError, match="its two files belong to others"):
        ClipVocabulary({**good, "merges.txt": "q z\n"}, "here")
    with pytest.raises(InputError, match="holds no vocabulary"):
        ClipVocabulary({**good, "vocab.json": "[]"}, "here")
    assert ClipVocabulary.read(folder).sha256 == ClipVocabulary(good, "here").sha256
