"""Token ids of a public CLIP, for tests: `python make_tokens.py bpe_simple_vocab_16e6.txt.gz` writes tokens.json.

Needs the transformers library, and the vocabulary that OpenAI's code and its ports on package indexes hold. Kept of it
are the tokens and the merges that the captions below need, each in its place: others never merge in these.
"""

import gzip
import itertools
import json
import pathlib
import sys
import tempfile

import transformers

HERE = pathlib.Path(__file__).parent
CAPTIONS = [
    "a photo of a cat",
    "A red apple, half-eaten; 3 apples & 2,015 pears!",
    "The dog's bowl isn't where they're looking. I'd say it's HIS",
    "  many \t spaces\nand lines  ",
    "Zürich's Straße, naïve café",
    "Zu\u0308rich (decomposed)",
    "東京タワー at night 🗼✨ #travel",
    "'S 'Ll ''quoted'' don’t",
    "snake_case and C++ <b>bold</b> &amp; https://example.com/x?y=1",
    "<| starts, |> ends",
    "½ of Ⅻ, ٣ and 10th İstanbul",
    "",
]


def letters():
    """The characters that stand for bytes, in the order of their ids."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + k) for k in range(len(others))]


def main():
    lines = gzip.open(sys.argv[1], "rt", encoding="utf-8").read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    alphabet = letters()
    names = [*alphabet, *(x + "</w>" for x in alphabet), *("".join(x) for x in merges)]
    tokens = {name: index for index, name in enumerate([*names, "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        (place / "vocab.json").write_text(json.dumps(tokens))
        (place / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
        public = transformers.CLIPTokenizerFast(str(place / "vocab.json"), str(place / "merges.txt"))
    ids = [public(caption, add_special_tokens=False)["input_ids"] for caption in CAPTIONS]
    made = {"".join(pair): pair for pair in merges}
    needed = {names[index] for index in itertools.chain(*ids)}
    waiting = list(needed)
    while waiting:  # the tokens that a needed one is made of
        parts = made.get(waiting.pop(), ())
        waiting += [part for part in parts if part not in needed]
        needed |= {*parts}
    kept = [pair for pair in merges if "".join(pair) in needed]
    alone = [*alphabet, *(x + "</w>" for x in alphabet)]
    figures = {
        "transformers": transformers.__version__,
        "captions": CAPTIONS,
        "ids": ids,
        "tokens": {name: tokens[name] for name in [*alone, *("".join(pair) for pair in kept)]},
        "merges": [" ".join(pair) for pair in kept],
    }
    (HERE / "tokens.json").write_text(json.dumps(figures, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
