"""Every published model, as its config here makes it, against the official list of its tensors: prints a table.

    python benchmarks/published_models.py

Models are evaluated for their shapes alone, so that those of billions of parameters take no memory. Parameters are
those that gradients train; with DQ-VAEs the codebook is counted too, as the release does.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from rqjax.official import documents as official
from rqjax.run.config import load_file

KEYS = pathlib.Path(__file__).parent.parent / "tests" / "keys"
IMAGENET_RQVAE = "rq/in256-rqvae-8x8x4"
"""The lists of the three LSUN tokenizers are this one."""
MODELS: tuple[tuple[str, str, str, str, int], ...] = (
    ("ffhq256-rqvae-8x8x4", "ffhq_rqvae", "", "rq/ffhq256-rqvae-8x8x4", 100_207_491),
    ("in256-rqvae-8x8x4", "imagenet_rqvae", "10epochs", IMAGENET_RQVAE, 100_207_491),
    ("cat256-rqvae-8x8x4", "lsun_rqvae", "cat", IMAGENET_RQVAE, 100_207_491),
    ("church256-rqvae-8x8x4", "lsun_rqvae", "church", IMAGENET_RQVAE, 100_207_491),
    ("bedroom256-rqvae-8x8x4", "lsun_rqvae", "bedroom", IMAGENET_RQVAE, 100_207_491),
    ("ffhq256-350M", "ffhq_rqtransformer", "yaml", "rq/ffhq256-rqtransformer-8x8x4-350M", 355_393_536),
    ("church256-350M", "lsun_rqtransformer", "church", "rq/lsun-church256-sqgan-8x8x4-350M-simp", 370_087_936),
    ("cat256-600M", "lsun_rqtransformer", "cat", "rq/cat256-rqtransformer-8x8x4-600M", 612_061_184),
    ("bedroom256-600M", "lsun_rqtransformer", "bedroom", "rq/bedroom256-rqtransformer-8x8x4-600M", 612_061_184),
    ("in256-480M", "imagenet_rqtransformer", "480m", "rq/in256-rqtransformer-8x8x4-480M", 480_921_088),
    ("in256-800M", "imagenet_rqtransformer", "800m", "rq/in256-rqtransformer-8x8x4-800M", 820_899_328),
    ("in256-1400M", "imagenet_rqtransformer", "1400m", "rq/in256-rqtransformer-8x8x4-1400M", 1_387_529_728),
    ("in256-3800M", "imagenet_rqtransformer", "3800m", "rq/in256-rqtransformer-8x8x4-3800M", 3_822_488_064),
    ("cc3m-650M", "cc3m_rqtransformer", "", "rq/cc3m-rqtransformer-8x8x4-650M", 654_061_568),
    ("text-3900M (inferred)", "text_rqtransformer", "length32", "", 3_903_915_008),
    ("dqvae-dual-r-05", "imagenet_dqvae", "dual_feature", "dq/dqvae-dual-r-05_imagenet", 48_098_437),
    ("dqvae-entropy-dual-r05", "imagenet_dqvae", "dual_entropy", "dq/dqvae-entropy-dual-r05_imagenet", 47_833_731),
    ("dqvae-triple-r-03-03", "imagenet_dqvae", "triple", "dq/dqvae-triple-r-03-03_imagenet", 74_010_502),
    ("uncond_imagenet_p6c18", "imagenet_dqtransformer", "uncond", "dq/uncond_imagenet_p6c18_transformer", 308_884_480),
    ("class_imagenet_p6c18", "imagenet_dqtransformer", "class", "dq/class_imagenet_p6c18_transformer", 313_999_360),
)
"""Name, file and variant of the config here, list of tensors (none was published for the text model), parameters."""


def compare(file: str, variant: str, keys: str, parameters: int) -> tuple[int, int, bool]:
    """How many tensors and parameters the model of a config has, and whether all that is known of it is equal."""
    model = load_file(file, variant).stage.model
    abstract = jax.eval_shape(model.init, jax.random.key(0))
    trained = sum(x.size for x in jax.tree.leaves(abstract.network))
    if file == "imagenet_dqvae":
        trained += (model.codebook_size + 1) * model.embed_dim
    ours = {key.removeprefix("transformer."): list(shape) for key, shape in official.keys(model).items()}
    if not keys:
        return len(ours), trained, trained == parameters
    theirs = json.loads((KEYS / f"{keys}.json").read_text())
    return len(ours), trained, trained == parameters and list(ours.items()) == list(theirs.items())


def main() -> None:
    print(f"{'model':<24} {'config':<34} {'keys':>5} {'parameters':>14}  all equal")
    equal = True
    for name, file, variant, keys, parameters in MODELS:
        tensors, trained, same = compare(file, variant, keys, parameters)
        equal &= same
        said = "yes" if same else "NO"
        print(f"{name:<24} {file + (':' + variant if variant else ''):<34} {tensors:>5} {trained:>14,}  {said}")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
