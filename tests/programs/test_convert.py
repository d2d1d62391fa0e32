import copy
import pathlib

import jax
import numpy as np
import pytest
import yaml

import rqjax
from rqjax.errors import InputError
from rqjax.official import documents, from_torch, to_torch
from rqjax.official.convert import first_stage
from rqjax.programs import convert
from rqjax.run.directory import Run
from rqjax.store.arrays import to_arrays
from rqjax.torchfile import file
from tests.official_files import DOCUMENTS, DQTRANSFORMER, RQVAE, checkpoint, imported, write

FAMILIES = ("rqvae", "rqtransformer", "dqvae", "dqtransformer")


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        value = found[key]
        assert value.dtype == tensor.dtype, key
        np.testing.assert_array_equal(value, tensor, err_msg=key)


@pytest.mark.parametrize("family", FAMILIES)
def test_files_survive_the_round_trip_bit_for_bit(family, tmp_path):
    there = checkpoint(family)
    folder = imported(family, tmp_path)
    convert.run_to_torch(str(folder), str(tmp_path / "back.pt"))
    back = file.load(tmp_path / "back.pt", verify=True)
    own = [key for key in there["state_dict"] if not key.startswith(("loss.", "first_stage_model."))]
    assert [key for key in back["state_dict"] if key in own] == own  # in the order of the file
    assert_equal(back["state_dict"], there["state_dict"])
    if "discriminator" in there:
        assert_equal(back["discriminator"], there["discriminator"])


@pytest.mark.parametrize("family", FAMILIES)
def test_functions_take_sections_and_arrays(family):
    document, state_dict = DOCUMENTS[family], checkpoint(family)["state_dict"]
    section = document.get("model") or document["arch"] | {"vocab_size": 16} if family != "rqvae" else document["arch"]
    back = to_torch(from_torch(state_dict, section))
    parts = ("first_stage_model.", "loss.")
    expected = {key: tensor for key, tensor in state_dict.items() if not key.startswith(parts)}
    assert_equal(back, expected)


def test_averaged_weights_are_taken_if_asked(tmp_path):
    convert.torch_to_folder(*write("rqvae", tmp_path), str(tmp_path / "ema"), ema=True)
    model = rqjax.load(tmp_path / "ema").model
    assert_equal(to_torch(model), checkpoint("rqvae")["state_dict_ema"])
    with pytest.raises(InputError, match="holds no state_dict_ema, only 'state_dict'"):
        convert.torch_to_folder(*write("rqtransformer", tmp_path), str(tmp_path / "b"), ema=True)


def test_a_state_dict_by_itself_in_half_precision_is_read(tmp_path):
    pt, config = write("rqtransformer", tmp_path)
    half = {key: np.asarray(x, np.float16) for key, x in checkpoint("rqtransformer")["state_dict"].items()}
    file.save(tmp_path / "half.pt", half)
    convert.torch_to_folder(str(tmp_path / "half.pt"), config, str(tmp_path / "out"))
    model = rqjax.load(tmp_path / "out").model
    assert {str(x.dtype) for x in to_arrays(model).values()} == {"float32"}
    expected = {key: x.astype(np.float32) for key, x in half.items()}
    assert_equal(to_torch(model), expected)
    assert pathlib.Path(pt).is_file()


def test_the_recipe_of_the_file_is_recorded(tmp_path):
    config = Run.open(imported("rqvae", tmp_path)).config
    stage = config.stage
    assert (stage.disc_ndf, stage.disc_num_layers, stage.disc_weight, stage.disc_loss_weight) == (8, 1, 0.5, 0.5)
    assert stage.optimizer.learning_rate == stage.discriminator_optimizer.learning_rate == 3e-5
    assert stage.optimizer.schedule == "constant"
    assert (stage.optimizer.b1, stage.optimizer.b2) == (0.4, 0.8)
    assert (stage.optimizer.warmup_steps, config.steps) == (469, 2 * 469)
    prior = Run.open(imported("rqtransformer", tmp_path, "prior")).config
    assert (prior.data.batch, prior.stage.accumulate, prior.steps) == (256, 2, 3 * 235)
    assert (prior.stage.model.temperature, prior.stage.model.target) == (0.5, "soft")
    assert prior.stage.tokenizer is None


def test_the_discriminator_has_the_sizes_of_its_tensors(tmp_path):
    gan = copy.deepcopy(RQVAE["gan"])
    gan["disc"]["arch"] |= {"ndf": 64, "num_layers": 3}
    pt, config = write("rqvae", tmp_path, gan=gan)
    convert.torch_to_folder(pt, config, str(tmp_path / "out"))
    stage = Run.open(tmp_path / "out").config.stage
    assert (stage.disc_ndf, stage.disc_num_layers) == (8, 1)
    convert.run_to_torch(str(tmp_path / "out"), str(tmp_path / "back.pt"))
    assert_equal(file.load(tmp_path / "back.pt", verify=True)["discriminator"], checkpoint("rqvae")["discriminator"])


def spoilt(kind: str, tmp_path: pathlib.Path) -> tuple[str, str]:
    pt, config = write("rqvae", tmp_path)
    path = pathlib.Path(pt)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == "flipped":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif kind == "missing tensor":
        contents = checkpoint("rqvae")
        del contents["state_dict"]["encoder.conv_in.weight"]
        file.save(pt, contents)
    elif kind == "other tensors":
        file.save(pt, {"state_dict": {"a": "text"}})
    elif kind == "not yaml":
        pathlib.Path(config).write_text("a: [")
    elif kind == "no yaml":
        pathlib.Path(config).unlink()
    elif kind == "wrong discriminator":
        file.save(pt, checkpoint("rqvae") | {"discriminator": {"main.0.weight": np.ones(3, np.float32)}})
    else:
        pathlib.Path(config).write_text("!!python/object/apply:os.system ['touch hacked']\n")
    return pt, config


KINDS = (
    *("truncated", "flipped", "missing tensor", "other tensors", "not yaml", "no yaml", "wrong discriminator"),
    "hostile yaml",
)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_what_fails(kind, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pt, config = spoilt(kind, tmp_path)
    before = set(tmp_path.iterdir())
    status, _, error = command("convert", "--from_torch", pt, "--torch_config", config, "--out", tmp_path / "out")
    assert status == 2
    assert error.startswith("rqjax: ")
    assert error.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_what_exists_is_never_overwritten(tmp_path, command):
    folder = imported("rqtransformer", tmp_path)
    (tmp_path / "taken.pt").write_text("mine")
    for words in (
        ("--to_torch", folder, "--out", tmp_path / "taken.pt"),
        ("--to_safetensors", folder, "--out", folder),
        ("--from_safetensors", folder, "--out", folder),
        (
            "--from_torch",
            *write("rqtransformer", tmp_path)[:1],
            "--torch_config",
            tmp_path / "rqtransformer.yaml",
            "--out",
            folder,
        ),
    ):
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        status, _, error = command("convert", *words)
        assert (status, "exists already" in error) == (2, True)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert (tmp_path / "taken.pt").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs --out and one of"),
        (("--from_torch", "a", "--to_torch", "b", "--out", "c"), "needs --out and one of"),
        (("--from_torch", "a", "--out", "c"), "needs --torch_config"),
        (("--to_torch", "a", "--out", "c", "--licence", "MIT"), "--licence says something about --from_torch"),
        (("--to_torch", "nowhere", "--out", "c.pt"), "nowhere holds no checkpoint"),
    ],
)
def test_lines_that_mean_nothing_are_refused(words, message, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = command("convert", *words)
    assert status == 2
    assert message in error
    assert not list(tmp_path.iterdir())


def test_a_prior_keeps_only_a_tokenizer_that_fits(tmp_path):
    tokenizer = imported("rqvae", tmp_path, "tokenizer")
    prior = imported("rqtransformer", tmp_path, "prior", tokenizer=str(tokenizer))
    kept = Run.open(prior).tokenizer()
    assert_equal(to_arrays(kept.model()), to_arrays(rqjax.load(tokenizer).model))
    assert Run.open(prior).config.stage.tokenizer == kept.tokenizer_config
    other = copy.deepcopy(RQVAE)
    other["arch"]["hparams"]["n_embed"] = 8
    model = documents.read(other).model
    contents = {"state_dict": to_torch(jax.tree.map(np.asarray, model.init(jax.random.key(0))))}
    file.save(tmp_path / "other.pt", contents)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    convert.torch_to_folder(str(tmp_path / "other.pt"), str(tmp_path / "other.yaml"), str(tmp_path / "other"))
    files = write("rqtransformer", tmp_path)
    for wrong, message in (
        (tmp_path / "other", "codebook_size is"),
        (imported("dqvae", tmp_path, "dq"), "expected an RQVAEConfig"),
    ):
        with pytest.raises(InputError, match=message):
            convert.torch_to_folder(*files, str(tmp_path / "b"), tokenizer=str(wrong))
    with pytest.raises(InputError, match="for priors"):
        convert.torch_to_folder(*write("rqvae", tmp_path), str(tmp_path / "b"), tokenizer=str(tokenizer))
    assert not (tmp_path / "b").exists()


def test_both_stages_of_a_lightning_file_become_two_models(tmp_path):
    folder = imported("dqtransformer", tmp_path)
    state_dict = checkpoint("dqtransformer")["state_dict"]
    tokenizer = Run.open(folder).tokenizer().model()
    assert_equal(to_torch(tokenizer), first_stage(state_dict))
    config = Run.open(folder).config
    assert config.stage.tokenizer == documents.read(DQTRANSFORMER).tokenizer.model
    assert Run.open(folder / "tokenizer").config.stage.model == config.stage.tokenizer


def test_imported_models_sample_and_name_their_licence(tmp_path, command):
    tokenizer, prior = imported("rqvae", tmp_path, "tokenizer"), imported("rqtransformer", tmp_path, "prior")
    words = ("sample", "--prior", prior, "--label", "1", "--count", "1", "--out", tmp_path / "x.png")
    status, _, error = command(*words)
    assert (status, "a prior without its tokenizer: pass --tokenizer" in error) == (2, True)
    status, out, _ = command(*words, "--tokenizer", tokenizer)
    assert status == 0
    assert (tmp_path / "x.png").is_file()
    assert out.count("licence of the weights: CC-BY-NC-SA-4.0") == 1


def test_a_given_licence_is_recorded_and_copied(tmp_path, command):
    folder = imported("dqtransformer", tmp_path, licence="MIT")
    (folder / "licence.txt").write_text("MIT\x1b[2J\nmore")
    status, out, _ = command("convert", "--to_safetensors", folder, "--out", tmp_path / "a")
    assert (status, r"licence of the weights: MIT\x1b[2J\nmore" in out) == (0, True)
    status, out, _ = command("convert", "--from_safetensors", tmp_path / "a", "--out", tmp_path / "b")
    assert (status, "licence of the weights: MIT" in out) == (0, True)
    assert (tmp_path / "b" / "tokenizer" / "licence.txt").read_text() == "MIT\n"


def test_the_bins_of_entropies_are_chosen_and_said(tmp_path, command):
    pt, config = write("dqtransformer", tmp_path)
    words = ("convert", "--from_torch", pt, "--torch_config", config)
    for given, bins in (((), "0_1"), (("--entropy_bins=-1_1",), "-1_1")):
        out = tmp_path / bins
        status, said, _ = command(*words, *given, "--out", out)
        assert (status, f"entropies have the bins {bins}" in said) == (0, True)
        assert Run.open(out).config.stage.tokenizer.routing.entropy_bins == bins
        assert Run.open(out / "tokenizer").config.stage.model.routing.entropy_bins == bins
        status, said, _ = command("convert", "--to_torch", out, "--out", tmp_path / f"{bins}.pt")
        assert (status, f"entropies have the bins {bins}" in said) == (0, True)
    rq, config = write("rqvae", tmp_path)
    words = ("convert", "--from_torch", rq, "--torch_config", config, "--out", tmp_path / "rq")
    status, _, error = command(*words, "--entropy_bins=0_1")
    assert (status, "is for models that route by entropy" in error) == (2, True)
    section = DQTRANSFORMER["model"]["params"]["first_stage_config"]
    tokenizer = first_stage(checkpoint("dqtransformer")["state_dict"])
    assert from_torch(tokenizer, section, entropy_bins="-1_1").config.routing.entropy_bins == "-1_1"
