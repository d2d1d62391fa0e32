"""Every published model, as its config here makes it, against the official list of its tensors: prints a table.

    python benchmarks/published_models.py

Models are evaluated for their shapes alone, so that those of billions of parameters take no memory. Parameters are
those that gradients train; with DQ-VAEs the codebook is counted too, as the release does. The table of models is
tests/keys/published_models.json; no list of tensors was published for the text model.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from rqjax.dq.convolutions import DQVAEConfig
from rqjax.official.convert import keys
from rqjax.official.documents import ModelConfig
from rqjax.run.config import load_file

KEYS = pathlib.Path(__file__).parent.parent / "tests" / "keys"


def main() -> None:
    print(f"{'model':<24} {'config':<34} {'keys':>5} {'parameters':>14}  all equal")
    equal = True
    for row in json.loads((KEYS / "published_models.json").read_text()):
        model = load_file(row["config"], row["variant"]).stage.model
        assert isinstance(model, ModelConfig)
        ours = {key.removeprefix("transformer."): list(shape) for key, shape in keys(model).items()}
        theirs = json.loads((KEYS / f"{row['keys']}.json").read_text()) if row["keys"] else ours
        trained = sum(x.size for x in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)).network))
        if isinstance(model, DQVAEConfig):
            trained += (model.codebook_size + 1) * model.embed_dim
        same = trained == row["parameters"] and list(ours.items()) == list(theirs.items())
        equal &= same
        name = ":".join(filter(None, (row["config"], row["variant"])))
        print(f"{row['name']:<24} {name:<34} {len(ours):>5} {trained:>14,}  {'yes' if same else 'NO'}")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
