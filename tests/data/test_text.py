import dataclasses
import importlib.util
import json
import os
import pickle

import jax
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from rqjax.data import DataConfig, HeldOut, open_source, rows_of_batches
from rqjax.data.text import END, PAD, UNKNOWN, Vocabulary, words
from rqjax.data.vocabulary import learn
from rqjax.errors import InputError
from rqjax.mesh import make_mesh

CAPTIONS = [
    "A red apple",
    "a green apple!",
    "apple pie",
    "Café crème",
    "naïve painting of a painter",
    "naan",
    "aaaa",
] * 3
OFFICIAL = {
    "A painting of a cat with sunglasses in the frame.": "1022 2690 1974 1022 3083 2017 6014 1977 1961 3782 1950",
    "the - bedroom stone cottage can sleep people": "1961 1823 2821 3278 5010 2419 7288 2633",
    "Café RENÉ, naïve — 東京 tower! 😀 [PAD] x": "14881 2340 1040 1785 3127 112 2035 1613 1372 1707 4019 1755 1 0 1010",
}


@pytest.fixture(scope="module")
def vocabulary():
    return learn(CAPTIONS, 300)


@pytest.fixture(scope="module")
def reference(vocabulary):
    """The same vocabulary in the library, put together as the official code does."""
    merges = list(vocabulary.merges)
    model = models.BPE(vocabulary.tokens, merges, unk_token=UNKNOWN, end_of_word_suffix=END, fuse_unk=False)
    tokenizer = Tokenizer(model)
    clean = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.normalizer = normalizers.Sequence([clean, normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([PAD, UNKNOWN])
    return tokenizer


def test_words_are_cleaned_and_split_as_the_official_ones():
    assert list(words("Café RENÉ, naïve — 東京 tower! 😀 [PAD] x\0y\tz")) == [
        *("café", "rené", ",", "naïve", "—", "東", "京", "tower", "!", "😀", "[PAD]", "xy", "z"),
    ]


def test_ids_are_those_of_the_library(vocabulary, reference):
    generator = np.random.default_rng(0)
    letters = [*"aaaeepplnirtf cgmd  !,.é東", "[PAD]", "[UNK]", "[", "Ж", "\n"]
    texts = ["".join(generator.choice(letters, generator.integers(0, 30))) for _ in range(300)]
    for text in [*CAPTIONS, *OFFICIAL, *texts]:
        found = reference.encode(text).ids
        np.testing.assert_array_equal(vocabulary.ids(text, 64), np.pad(found, (0, 64 - len(found))))


@pytest.mark.skipif("RQJAX_BPE16K" not in os.environ, reason="needs the official vocabulary's folder in RQJAX_BPE16K")
def test_the_official_vocabulary_gives_the_official_ids():
    vocabulary = Vocabulary.read(os.environ["RQJAX_BPE16K"])
    assert (len(vocabulary), len(vocabulary.merges)) == (16384, 14425)
    for text, ids in OFFICIAL.items():
        found = [int(word) for word in ids.split()]
        np.testing.assert_array_equal(vocabulary.ids(text, 32), np.pad(found, (0, 32 - len(found))))


def test_texts_are_cut_on_the_right_and_padded_with_zeros(vocabulary):
    full = vocabulary.ids("a red apple", 16)
    assert full.dtype == np.int32
    assert 0 < np.count_nonzero(full) < 16
    np.testing.assert_array_equal(vocabulary.ids("a red apple", 2), full[:2])
    np.testing.assert_array_equal(vocabulary.ids("", 3), [0, 0, 0])
    np.testing.assert_array_equal(vocabulary.ids("a red apple " * 10_000, 4), vocabulary.ids("a red apple a", 4))
    assert vocabulary.ids("a" * 10**6, 8).all()


def test_dropout_is_a_function_of_its_generator_and_stops_merges(vocabulary):
    text = "a painting of a green apple"
    drawn = [vocabulary.ids(text, 64, 0.3, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    np.testing.assert_array_equal(vocabulary.ids(text, 64, 0.3), vocabulary.ids(text, 64))
    names = {index: token for token, index in vocabulary.tokens.items()}
    spelled = "".join(names[index] for index in drawn[0] if index)
    assert spelled == "".join(word + END for word in text.split())
    letters = vocabulary.ids(text, 64, 1 - 1e-9, np.random.default_rng(0))
    assert np.count_nonzero(letters) == len(text.replace(" ", ""))


def test_learning_merges_the_commonest_pairs_first_whatever_the_order(vocabulary):
    assert learn(reversed(CAPTIONS), 300) == vocabulary
    small = learn(["ab ab ab", "abc abc", "xb"], 40)
    assert list(small.tokens)[:2] == [PAD, UNKNOWN]
    assert small.merges[:2] == (("a", "b" + END), ("a", "b"))
    assert small.ids("abc", 3).tolist() == [small.tokens["abc" + END], 0, 0]


def test_rare_letters_are_unknown():
    vocabulary = learn(["ab ab ab abq"], 24)
    assert "q" + END not in vocabulary.tokens
    assert vocabulary.ids("q", 2).tolist() == [1, 0]


def test_files_keep_it(vocabulary, tmp_path):
    for name, content in vocabulary.files().items():
        (tmp_path / f"bpe-{name}").write_text(content)
    assert Vocabulary.read(tmp_path) == vocabulary
    again = pickle.loads(pickle.dumps(vocabulary))
    np.testing.assert_array_equal(again.ids("an apple", 8), vocabulary.ids("an apple", 8))


def test_damaged_files_are_one_line(vocabulary, tmp_path):
    good = vocabulary.files()
    swapped = {**vocabulary.tokens, PAD: 1, UNKNOWN: 0}
    gap = {**vocabulary.tokens, "new": 10**6}
    damaged = [
        ({}, "has none that ends in vocab.json"),
        ({"vocab.json": "["}, "holds no vocabulary"),
        ({"vocab.json": "[1]"}, "holds no vocabulary"),
        ({"vocab.json": json.dumps(swapped)}, "not as ids 0 and 1"),
        ({"vocab.json": json.dumps(gap)}, "it is damaged"),
        ({"merges.txt": "a b c\n"}, "holds no vocabulary"),
        ({"merges.txt": "q zz\n"}, "its two files belong to others"),
        ({"other-merges.txt": ""}, "merges.txt, other-merges.txt that ends in merges.txt"),
    ]
    for i, (files, reason) in enumerate(damaged):
        folder = tmp_path / str(i)
        folder.mkdir()
        for name, content in ({**good, **files} if files else {}).items():
            (folder / name).write_text(content)
        with pytest.raises(InputError, match=reason):
            Vocabulary.read(folder)
    (tmp_path / "1" / "vocab.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match="expected a text in UTF-8"):
        Vocabulary.read(tmp_path / "1")
    with pytest.raises(InputError, match="0 words make no vocabulary"):
        learn([""], 100)


def test_without_the_library_the_extra_is_named(vocabulary, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"install rqjax\[text\]"):
        Vocabulary(vocabulary.tokens, vocabulary.merges)


def test_batches_have_captions_and_the_same_images_as_without(tmp_path, vocabulary):
    for k, caption in enumerate(CAPTIONS[:4]):
        Image.new("RGB", (12, 12), (k, k, k)).save(tmp_path / f"{k}.png")
        with (tmp_path / "train.tsv").open("a") as file:
            file.write(f"{k}.png\t{caption}\n")
    for name, content in vocabulary.files().items():
        (tmp_path / name).write_text(content)
    data = DataConfig(
        name="captions", path=str(tmp_path), vocabulary=str(tmp_path), text_length=6, size=8, batch=4, crop="random"
    )
    assert data.fields == {"image", "label", "text"}
    with rows_of_batches(data, range(4)) as stream:
        batch = next(stream)
    assert (batch["text"].dtype, batch["text"].shape) == (np.int32, (4, 6))
    for image, text in zip(batch["image"], batch["text"], strict=True):
        np.testing.assert_array_equal(text, vocabulary.ids(CAPTIONS[image[0, 0, 0]], 6))
    dropping, plain = dataclasses.replace(data, text_dropout=0.9), dataclasses.replace(data, text_length=0)
    with rows_of_batches(dropping, range(4)) as first, rows_of_batches(plain, range(4)) as second:
        dropped, without = next(first), next(second)
    assert not np.array_equal(dropped["text"], batch["text"])
    for other in (dropped, without):
        np.testing.assert_array_equal(other["image"], batch["image"])
    with rows_of_batches(dropping, [2, 3]) as stream:
        np.testing.assert_array_equal(next(stream)["text"], dropped["text"][2:])
    held_out = HeldOut(dataclasses.replace(dropping, split="all"), "all", 3, make_mesh("1x1", jax.devices()[:1]))
    rows = [jax.device_get(part) for part in held_out]
    assert [part["counts"].tolist() for part in rows] == [[True] * 3, [True, False, False]]
    np.testing.assert_array_equal(rows[1]["text"], [vocabulary.ids(CAPTIONS[3], 6), [0] * 6, [0] * 6])
    with pytest.raises(InputError, match=r"data.text_length=6, and .*0.png has no caption"):
        open_source(dataclasses.replace(data, name="folder"))
