"""Makes a vocabulary of byte pairs from the captions of a data set, as text-to-image models read them:

    .venv/bin/python launch/vocabulary.py --captions data/emoji --size 1024 --out data/emoji/vocabulary

--captions is a list, a folder of lists, or a prepared set with captions (or --tars FOLDER); the training split counts.
The result is a folder with vocab.json and merges.txt, in the conventions of the official bpe16k: `data.vocabulary`.
"""

import argparse
import pathlib
import sys

from rqjax.data.config import DataConfig, open_source
from rqjax.data.vocabulary import captions_of, learn
from rqjax.errors import InputError
from rqjax.store import outputs

LEAST, MOST = 16, 2**24


def main() -> None:
    """Makes the vocabulary, and says its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--captions", metavar="LIST", help="images with captions, or a folder with a list for each split"
    )
    source.add_argument("--tars", metavar="FOLDER", help="tar files of a WebDataset")
    parser.add_argument("--holdout", type=float, default=0.05, help="share held out where no splits are (0.05)")
    parser.add_argument("--size", type=int, default=16384, help="tokens (16384, as the official one)")
    parser.add_argument("--out", required=True, help="a folder that is empty, or not there")
    given = parser.parse_args()
    folder = outputs.checked(given.out, (outputs.FOLDER,))
    if not LEAST <= given.size <= MOST:
        raise InputError(f"--size is {given.size}: expected a number from {LEAST} to {MOST}")
    name = "captions" if given.captions else "tars"
    path = given.captions or given.tars
    data = DataConfig(name=name, path=path, holdout=given.holdout, size=1, batch=1)
    vocabulary = learn(captions_of(open_source(data)), given.size)
    for file, content in vocabulary.files().items():
        outputs.write_text(pathlib.Path(folder) / file, content)
    print(f"{folder}: {len(vocabulary)} tokens, {len(vocabulary.merges)} merges")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"vocabulary: {error}", file=sys.stderr)
        sys.exit(2)
