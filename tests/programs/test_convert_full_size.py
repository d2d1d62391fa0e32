"""The published FFHQ models in full size, with the weights of the golden rule: in, out, and once through 256x256."""

import gc
import json
import pathlib

import jax
import numpy as np
import pytest
import yaml

from rqjax.data.images import to_uint8
from rqjax.nets.sampling import Draw
from rqjax.programs import convert
from rqjax.run.directory import Run
from rqjax.torchfile import file
from tests.golden.deterministic import det_image
from tests.official_files import rule_made

KEYS = pathlib.Path(__file__).parents[1] / "keys" / "rq"
ARCHS = json.loads((KEYS / "rqtransformer_arch.json").read_text())
PRIOR = "ffhq256-rqtransformer-8x8x4-350M"
TOKENIZER = {
    "type": "rq-vae",
    "code_hier": 1,
    "hparams": {
        **{"bottleneck_type": "rq", "embed_dim": 256, "n_embed": 2048, "latent_shape": [8, 8, 256]},
        **{"code_shape": [8, 8, 4], "shared_codebook": True, "decay": 0.99, "restart_unused_codes": True},
        **{"loss_type": "mse", "latent_loss_weight": 0.25},
    },
    "ddconfig": {
        **{"double_z": False, "z_channels": 256, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128},
        **{"ch_mult": [1, 1, 2, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0},
    },
    "checkpointing": True,
}


def round_trip(name: str, arch: dict, folder: pathlib.Path, **options) -> pathlib.Path:
    """The folder of a model with rule-made weights, which come back bit for bit, in their order."""
    state_dict = rule_made(json.loads((KEYS / f"{name}.json").read_text()))
    file.save(folder / "model.pt", {"state_dict": state_dict})
    (folder / "config.yaml").write_text(yaml.safe_dump({"arch": arch}))
    convert.torch_to_folder(str(folder / "model.pt"), str(folder / "config.yaml"), str(folder / name), **options)
    convert.run_to_torch(str(folder / name), str(folder / "back.pt"))
    back = file.load(folder / "back.pt", verify=True)["state_dict"]
    assert list(back) == list(state_dict)
    for key, tensor in state_dict.items():
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)
    (folder / "model.pt").unlink()
    (folder / "back.pt").unlink()
    return folder / name


@pytest.mark.slow
def test_full_size_models_come_back_bit_for_bit_and_run(tmp_path):
    tokenizer = round_trip("ffhq256-rqvae-8x8x4", TOKENIZER, tmp_path)
    prior = round_trip(PRIOR, ARCHS[PRIOR]["arch"], tmp_path, tokenizer=str(tokenizer))
    gc.collect()
    model = Run.open(prior).model()
    codec = Run.open(prior).tokenizer().model()
    image = det_image("full size", (1, 3, 256, 256)).transpose(0, 2, 3, 1)
    codes = jax.jit(lambda t, x: t.encode(x))(codec, image)
    assert codes.shape == (1, 8, 8, 4)
    options = Draw(top_k=250)
    drawn = model.generate(codec, np.zeros(1, np.int32), jax.random.key(0), options)
    assert drawn.shape == (1, 8, 8, 4)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < 2048
    picture = jax.jit(lambda t, c: to_uint8(t.decode_codes(c)))(codec, drawn)
    assert picture.shape == (1, 256, 256, 3)
    assert len(np.unique(np.asarray(picture))) > 100
