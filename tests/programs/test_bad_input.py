"""Everything wrong that a person may type: one line that says so, status 2, and nothing written, read or compiled."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from rqjax.run.config import to_dict
from rqjax.store import model_folder
from rqjax.store.lock import locked
from tests.configs.tiny import get_config

TINY = pathlib.Path(__file__).parents[1] / "configs" / "tiny.py"


def fill(folder, variant):
    """A model's folder whose weights are zeros: enough to be refused."""
    config = get_config(variant)
    shapes = jax.eval_shape(config.stage.model.init, jax.random.key(0))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    folder.mkdir(parents=True)
    model_folder.save(folder, to_dict(config), {"model": zeros}, "")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a bit of everything, in which the commands are typed."""
    root = tmp_path_factory.mktemp("typed")
    for name, variant in {"rqvae": "rqvae", "dqvae": "dqvae", "judge": "classifier", "prior": "rqtransformer"}.items():
        fill(root / name, variant)
    fill(root / "prior" / "tokenizer", "rqvae")
    fill(root / "dqprior", "dqtransformer")
    fill(root / "dqprior" / "tokenizer", "dqvae")
    fill(root / "alone", "rqtransformer")
    photos(root / "photos")
    photos(root / "mixed" / "cat")
    photos(root / "mixed")
    for name in ("cat", "dog", "owl"):
        photos(root / "animals" / name)
    (root / "empty").mkdir()
    for name in ("zero.png", "text.jpg"):
        (root / "broken").mkdir(exist_ok=True)
        (root / "broken" / name).write_text("hello" if name == "text.jpg" else "")
    (root / "others").mkdir()
    Image.new("RGB", (8, 8)).save(root / "others" / "a.gif")
    (root / "old.png").touch()
    (root / "file").touch()
    (root / "text.pt").write_text("no tensors")
    (root / "empty.pt").touch()
    (root / "text.yaml").write_text("- a\n- b\n")
    (root / "torn.yaml").write_text("a: [1")
    (root / "run").mkdir()
    (root / "run" / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    (root / "blank").mkdir()
    (root / "blank" / "metrics.jsonl").touch()
    (root / "torn").mkdir()
    (root / "torn" / "model.safetensors").write_bytes(b"12345")
    (root / "torn" / "config.json").write_text("{")
    (root / "odd").mkdir()
    (root / "odd" / "model.safetensors").write_bytes(b"12345")
    (root / "odd" / "config.json").write_text("[1, 2]")
    return root


def photos(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(2):
        Image.new("RGB", (40, 50), (i, 0, 0)).save(folder / f"{i}.png")


def train(*words, config="classifier", workdir="new"):
    return ("train", f"--config={TINY}:{config}", f"--workdir={workdir}", "--config.data.name=synthetic", *words)


def sample(*words, prior="prior"):
    return ("sample", f"--prior={prior}", *words)


def reconstruct(*words, tokenizer="rqvae", images="photos"):
    return ("reconstruct", f"--tokenizer={tokenizer}", f"--images={images}", *words)


def compiled(*words):
    return ("compile", f"--config={TINY}", *words)


WORDS = {
    "no such verb": (["trian"], "unknown verb 'trian': expected one of quickstart, train"),
    "a flag instead of a verb": (["--workdir=a"], "unknown verb"),
    "an unknown flag": (sample("--lable=3"), "Did you mean: label"),
    "a flag without its value": (["sample", "--prior"], "prior"),
    "a stray word": (sample("8"), "unexpected words ['8']: every input is a --flag"),
    "two stray words": (["train", "runs/a", "runs/b"], "unexpected words ['runs/a', 'runs/b']"),
    "a switch with a word": (sample("--ema=perhaps"), "ema"),
}
SAMPLE = {
    "no prior": (["sample"], "sample needs --prior DIR"),
    "an empty prior": (sample(prior=""), "holds no checkpoint"),
    "a missing prior": (sample(prior="nowhere"), "nowhere holds no checkpoint: expected a run directory"),
    "a file as prior": (sample(prior="file"), "file holds no checkpoint"),
    "photographs as prior": (sample(prior="photos"), "photos holds no checkpoint"),
    "a tokenizer as prior": (sample(prior="rqvae"), "rqvae holds no prior"),
    "a classifier as prior": (sample(prior="judge"), "judge holds no prior"),
    "a bucket without a name": (sample(prior="gs://"), "is no place for files"),
    "another cloud": (sample(prior="s3://a/b"), "is no place for files: expected a local folder or gs://"),
    "a torn model": (sample(prior="torn"), "config.json cannot be read"),
    "an odd model": (sample(prior="odd"), "config.json holds a list"),
    "a prior without tokenizer": (sample(prior="alone"), "pass --tokenizer DIR, the one it was trained on"),
    "another family's tokenizer": (sample("--tokenizer=dqvae"), "tokenizer"),
    "a classifier as tokenizer": (sample("--tokenizer=judge"), "holds a Classifier"),
    "a missing tokenizer": (sample("--tokenizer=nowhere"), "nowhere holds no checkpoint"),
    "label 99": (sample("--label=99"), "99 is out of range: this prior has 10 classes, from 0 to 9"),
    "label -1": (sample("--label=-1"), "-1 is out of range"),
    "label 2**40": (sample(f"--label={2**40}"), "1099511627776 is out of range"),
    "label 2**70": (sample(f"--label={2**70}"), "is out of range"),
    "label 1.5": (sample("--label=1.5"), "--label has '1.5': expected"),
    "labels with a hole": (sample("--label=1,,2"), "--label has ''"),
    "a label that is a name": (sample("--label=unheard"), "--label has 'unheard'"),
    "a label among the seed's digits": (sample("--label=0x1"), "--label has '0x1'"),
    "seed 2**70": (sample(f"--seed={2**70}"), "seed"),
    "seed word": (sample("--seed=lucky"), "seed"),
    "count 0": (sample("--count=0"), "count"),
    "count -1": (sample("--count=-1"), "count"),
    "count without end": (sample("--count=1000000000000"), "count"),
    "count word": (sample("--count=many"), "count"),
    "batch 0": (sample("--batch=0"), "batch"),
    "batch 2.5": (sample("--batch=2.5"), "batch"),
    "top_k -1": (sample("--top_k=-1"), "top_k of depth 1 is -1: expected at least 1, or 0 to keep every code"),
    "top_k 1.5": (sample("--top_k=1.5"), "--top_k has '1.5': expected a whole number"),
    "top_k 2**40": (sample(f"--top_k={2**40}"), "top_k"),
    "top_k None": (sample("--top_k=None"), "--top_k has 'None': expected a whole number"),
    "top_p 2": (sample("--top_p=2"), "top_p of depth 1 is 2.0: expected a number above 0, up to 1"),
    "top_p 0": (sample("--top_p=0"), "top_p of depth 1 is 0.0"),
    "top_p nan": (sample("--top_p=nan"), "top_p of depth 1 is nan"),
    "top_p by depth, one wrong": (sample("--top_p=1,1,1,1.5"), "top_p of depth 4 is 1.5"),
    "temperature -1": (sample("--temperature=-1"), "temperature of depth 1 is -1.0: expected 0 (greedy) or more"),
    "temperature nan": (sample("--temperature=nan"), "temperature of depth 1 is nan"),
    "temperature hot": (sample("--temperature=hot"), "--temperature has 'hot': expected a number"),
    "no temperature": (sample("--temperature="), "temperature"),
    "two values for four depths": (sample("--top_k=3,4"), "--top_k has 2 values: give one, or one for each of 4"),
    "positions of an RQ prior": (sample("--position_top_k=3"), "--position_top_k is for DQ priors"),
    "two values for DQ": (sample("--top_k=3,4", prior="dqprior"), "give one, and that of positions as"),
    "position_top_p 7": (sample("--position_top_p=7", prior="dqprior"), "top_p of positions is 7.0"),
    "out: a picture that is there": (sample("--out=old.png"), "old.png exists already"),
    "out: a folder of other things": (sample("--out=run"), "--out run is not empty"),
    "out: a file as folder": (sample("--out=file/"), "--out file is a file"),
    "out: below a file": (sample("--out=file/a.png"), "file/a.png cannot be written (Not a directory)"),
    "out: nothing": (sample("--out="), "--out is ''"),
    "out: .gif": (sample("--out=a.gif"), "expected a name that ends in one of .png, .jpg"),
    "out: below /proc": (sample("--out=/proc/a.png"), "cannot be written"),
    "out: a bucket": (sample("--out=gs://bucket/a.png"), "expected a file or folder of this machine"),
    "out: here": (sample("--out=."), "--out is '.'"),
    "out: a long name": (sample(f"--out={'x' * 300}.png"), "File name too long"),
}
RECONSTRUCT = {
    "neither": (["reconstruct"], "reconstruct needs --tokenizer DIR and --images FOLDER"),
    "no images": (["reconstruct", "--tokenizer=rqvae"], "reconstruct needs"),
    "a missing folder": (reconstruct(images="nowhere"), "'nowhere' is not a folder"),
    "a file": (reconstruct(images="old.png"), "'old.png' is not a folder"),
    "an empty folder": (reconstruct(images="empty"), "empty has no images"),
    "only .gif": (reconstruct(images="others"), "others has no images"),
    "broken files": (reconstruct(images="broken"), "none of the images can be read, broken/"),
    "images beside class folders": (reconstruct(images="mixed"), "move the images into one"),
    "a classifier": (reconstruct(tokenizer="judge"), "judge holds a ClassifierConfig: expected the run of a tok"),
    "photographs as tokenizer": (reconstruct(tokenizer="photos"), "photos holds no checkpoint"),
    "a prior without tokenizer": (reconstruct(tokenizer="alone"), "holds a prior without its tokenizer"),
    "count 0": (reconstruct("--count=0"), "count"),
    "arrays": (reconstruct("--out=a.npz"), "expected a name that ends in one of .png"),
    "a folder": (reconstruct("--out=pictures/"), "expected a name that ends in one of .png"),
    "a picture that is there": (reconstruct("--out=old.png"), "old.png exists already"),
}
REPORT = {
    "no runs": (["report"], "report needs run directories: rqjax report DIR [DIR ...]"),
    "a missing run": (["report", "--runs=nowhere"], "nowhere"),
    "no lines": (["report", "--runs=run,blank"], "blank"),
    "a file": (["report", "--runs=file"], "file"),
    "a comma too many": (["report", "--runs=run,"], ""),
    "a picture as page": (["report", "--runs=run", "--out=a.png"], "expected a name that ends in one of .html, .htm"),
    "below a file": (["report", "--runs=run", "--out=file/a.html"], "cannot be written (Not a directory)"),
}
TRAIN = {
    "no configuration": (["train", "--workdir=new"], "train needs --config"),
    "no workdir": (["train", f"--config={TINY}"], "and --workdir DIR"),
    "an empty workdir": (train(workdir=""), "--workdir"),
    "a workdir that is a file": (train(workdir="file"), "file cannot be a run directory (File exists)"),
    "a workdir below a file": (train(workdir="file/a"), "cannot be a run directory (Not a directory)"),
    "a workdir below /proc": (train(workdir="/proc/a"), "/proc/a cannot be a run directory"),
    "a long workdir": (train(workdir="x" * 300), "File name too long"),
    "a workdir in another cloud": (train(workdir="s3://a/b"), "is no place for files"),
    "a model of another configuration": (train(workdir="rqvae"), "rqvae belongs to another configuration"),
    "a missing folder": (train("--config.data.name=folder", "--config.data.path=no"), "data.path 'no' is not a folder"),
    "no path": (train("--config.data.name=folder"), "data.name=folder without data.path"),
    "an empty folder": (train("--config.data.name=folder", "--config.data.path=empty"), "empty has no images"),
    "images in two ways": (train("--config.data.name=folder", "--config.data.path=mixed"), "move the images into one"),
    "more classes": (
        train("--config.data.name=folder", "--config.data.path=animals", "--config.stage.model.classes=2"),
        "classes",
    ),
    "an unknown data set": (train("--config.data.name=imagenet"), "data.name is 'imagenet': expected one of"),
    "an unknown split": (train("--config.data.split=dev"), "data.split is 'dev'"),
    "an unknown crop": (train("--config.data.crop=left"), "data.crop is 'left'"),
    "an unknown filter": (train("--config.data.filter=box"), "data.filter is 'box'"),
    "a seed below 0": (train("--config.data.seed=-1"), "data.seed is -1"),
    "a seed of 70 bits": (train(f"--config.seed={2**70}"), "seed"),
    "holdout 1": (train("--config.data.holdout=1"), "data.holdout=1"),
    "workers -1": (train("--config.data.workers=-1"), "data.workers is -1"),
    "resize below size": (train("--config.data.resize=8"), "data.resize=8 is smaller than data.size"),
    "batch 0": (train("--config.data.batch=0"), "data.batch is 0"),
    "a batch that no mesh splits": (train("--config.data.batch=12"), "no mesh of 8 devices splits 12 rows"),
    "a mesh of words": (train("--config.mesh=banana"), "mesh is 'banana': expected \"auto\""),
    "a mesh that is too large": (train("--config.mesh=64x1"), "64 devices: there are 8"),
    "steps 0": (train("--config.steps=0"), "config.steps is 0"),
    "steps that are no number": (train("--config.steps=many"), "many"),
    "keep 0": (train("--config.keep=0"), "config.keep is 0"),
    "log_every 0": (train("--config.log_every=0"), "config.log_every is 0"),
    "max_skipped 0": (train("--config.max_skipped=0"), "config.max_skipped is 0"),
    "learning rate -1": (train("--config.stage.optimizer.learning_rate=-1"), "learning_rate"),
    "learning rate nan": (train("--config.stage.optimizer.learning_rate=nan"), "learning_rate"),
    "an unknown optimizer": (train("--config.stage.optimizer.name=magic"), "magic"),
    "an unknown schedule": (train("--config.stage.optimizer.schedule=moon"), "moon"),
    "dtype float8": (train("--config.stage.model.dtype=float8", config="rqvae"), "float8"),
    "depth 0": (train("--config.stage.model.quantizer.depth=0", config="rqvae"), "depth"),
    "a grid that does not fit": (train("--config.stage.model.code_shape=3,3", config="rqvae"), "a code grid of (3, 3)"),
    "an unknown field": (train("--config.stage.model.dept=3", config="rqvae"), "dept"),
    "an unknown variant": (train(config="vqvae"), "vqvae"),
    "a prior without tokenizer": (train(config="rqtransformer"), "train one first, or pass --config.stage.tokenizer_p"),
    "a missing tokenizer": (
        train("--config.stage.tokenizer_path=no", config="rqtransformer"),
        "tokenizer_path is 'no'",
    ),
    "photographs as tokenizer": (
        train("--config.stage.tokenizer_path=photos", config="rqtransformer"),
        "tokenizer_path is 'photos'",
    ),
    "a classifier as tokenizer": (train("--config.stage.tokenizer_path=judge", config="rqtransformer"), "Classifier"),
    "a DQ tokenizer": (train("--config.stage.tokenizer_path=dqvae", config="rqtransformer"), "with a DQVAEConfig"),
    "VGG16 of no path": (train("--config.stage.perceptual_weight=1", config="rqvae"), "vgg16_path is empty"),
    "VGG16 that is missing": (
        train("--config.stage.perceptual_weight=1", "--config.stage.vgg16_path=no.pth", config="rqvae"),
        "vgg16_path='no.pth' is not a file",
    ),
    "start_from nothing": (train("--config.start_from=nowhere"), "nowhere holds no checkpoint"),
    "start_from another model": (train("--config.start_from=rqvae"), "rqvae"),
    "a process too many": (train("--processes=2"), "several processes need"),
    "process 5 of 2": (train("--coordinator=localhost:1", "--processes=2", "--process_id=5"), "0 <= id < processes"),
    "a coordinator without port": (train("--coordinator=me", "--processes=2", "--process_id=0"), "HOST:PORT"),
}
CONVERT = {
    "nothing": (["convert"], "convert needs --out and one of --from_torch"),
    "no out": (["convert", "--to_torch=rqvae"], "convert needs --out"),
    "two ways": (
        ["convert", "--to_torch=rqvae", "--to_safetensors=rqvae", "--out=a"],
        "convert needs --out and one of",
    ),
    "no YAML": (["convert", "--from_torch=text.pt", "--out=a"], "--from_torch needs --torch_config"),
    "a licence of nothing": (
        ["convert", "--to_torch=rqvae", "--licence=mine", "--out=a.pt"],
        "--licence says something",
    ),
    "a missing YAML": (["convert", "--from_torch=text.pt", "--torch_config=no.yaml", "--out=a"], "no.yaml"),
    "a list as YAML": (["convert", "--from_torch=text.pt", "--torch_config=text.yaml", "--out=a"], "text.yaml"),
    "a torn YAML": (["convert", "--from_torch=text.pt", "--torch_config=torn.yaml", "--out=a"], "torn.yaml"),
    "out is there": (["convert", "--to_safetensors=rqvae", "--out=photos"], "photos exists already"),
    "out below a file": (["convert", "--to_safetensors=rqvae", "--out=file/a"], "cannot be written"),
    "a .pt that is there": (["convert", "--to_torch=rqvae", "--out=text.pt"], "text.pt exists already"),
    "a .pt of no ending": (["convert", "--to_torch=rqvae", "--out=a"], "expected a name that ends in one of .pt"),
    "a missing run": (["convert", "--to_torch=nowhere", "--out=a.pt"], "nowhere holds no checkpoint"),
    "a folder without model": (["convert", "--from_safetensors=photos", "--out=a"], "holds no model.safetensors"),
    "a torn folder": (["convert", "--from_safetensors=torn", "--out=a"], "torn"),
    "a classifier to PyTorch": (["convert", "--to_torch=judge", "--out=a.pt"], "lassifier"),
}
EVALUATE = {
    "nothing": (["evaluate"], "evaluate needs --tokenizer DIR or --prior DIR"),
    "both": (["evaluate", "--tokenizer=rqvae", "--prior=prior"], "evaluate needs --tokenizer DIR or --prior DIR"),
    "a classifier as tokenizer": (["evaluate", "--tokenizer=judge"], "holds a Classifier"),
    "a tokenizer as prior": (["evaluate", "--prior=rqvae"], "--prior rqvae holds no prior"),
    "a missing run": (["evaluate", "--tokenizer=nowhere"], "nowhere holds no checkpoint"),
    "no images": (["evaluate", "--prior=prior", "--count=0"], "count"),
    "unlike classes": (["evaluate", "--prior=prior", "--count=15"], "expected a multiple of 10"),
    "guidance of a prior without": (
        ["evaluate", "--prior=prior", "--count=10", "--guidance=1,2"],
        "guidance is 2.0, and this prior was trained with its label at all times",
    ),
    "guidance in words": (["evaluate", "--prior=prior", "--guidance=much"], "--guidance has 'much': expected a number"),
    "settings of other streams": (
        ["evaluate", "--prior=prior", "--count=10", "--top_k=1,2"],
        "top_k has 2 values: give one, or one for each of depth 1",
    ),
    "a page as out": (["evaluate", "--tokenizer=rqvae", "--out=a.html"], "expected a name that ends in one of .json"),
    "out is there": (
        ["evaluate", "--tokenizer=rqvae", "--out=odd/config.json"],
        "--out odd/config.json exists already",
    ),
    "missing images": (["evaluate", "--tokenizer=rqvae", "--data=nowhere"], "'nowhere' is not a folder"),
    "an unknown split": (["evaluate", "--tokenizer=rqvae", "--split=dev"], "data.split is 'dev'"),
    "a missing Inception": (
        ["evaluate", "--tokenizer=rqvae", "--inception=a.pth"],
        "--inception='a.pth' is not a file",
    ),
    "another file as Inception": (["evaluate", "--prior=prior", "--count=10", "--inception=text.pt"], "has SHA-256"),
    "an unknown protocol": (["evaluate", "--tokenizer=rqvae", "--protocol=fid"], "protocol"),
    "a missing LPIPS": (["evaluate", "--tokenizer=rqvae", "--lpips=a.pth"], "'a.pth' is not a file"),
    "a tokenizer as classifier": (
        ["evaluate", "--tokenizer=rqvae", "--classifier=rqvae"],
        "--classifier rqvae holds a RQVAEConfig: expected the run of a classifier",
    ),
    "a classifier kept over something": (
        ["evaluate", "--tokenizer=rqvae", "--keep_classifier=animals"],
        "--keep_classifier animals is not empty",
    ),
    "a text as reference": (
        ["evaluate", "--prior=prior", "--count=10", "--reference=file"],
        "--reference file cannot be read",
    ),
    "two kinds of reference": (
        ["evaluate", "--prior=prior", "--count=10", "--reference=file", "--data=photos"],
        "--reference has the statistics: leave --data",
    ),
    "a prior's flag": (["evaluate", "--tokenizer=rqvae", "--count=10"], "--count is for a prior: leave it out"),
    "a tokenizer's flag": (["evaluate", "--prior=prior", "--lpips=a.pth"], "--lpips is for a tokenizer: leave it out"),
}
OTHERS = {
    "quickstart without out": (["quickstart"], "quickstart needs --out DIR"),
    "quickstart of no model": (["quickstart", "--model=vq", "--out=a"], "<rq|dq>"),
    "quickstart to a file": (["quickstart", "--out=file"], "cannot be written (Not a directory)"),
    "quickstart below /proc": (["quickstart", "--out=/proc/a"], "cannot be written"),
    "quickstart of no samples": (["quickstart", "--out=a", "--count=0"], "count"),
    "thresholds of a patch that does not divide": (["thresholds", "--size=10", "--patch=3"], "does not divide"),
    "thresholds of nothing": (["thresholds", "--images=empty"], "empty has no images"),
    "thresholds of broken images": (["thresholds", "--images=broken", "--split=all"], "can be read"),
    "thresholds of a missing folder": (["thresholds", "--images=nowhere"], "'nowhere' is not a folder"),
    "thresholds of an unknown split": (["thresholds", "--split=dev"], "data.split is 'dev'"),
    "thresholds of unknown bins": (["thresholds", "--bins=0_2"], "bins"),
    "thresholds to a picture": (["thresholds", "--out=a.png"], "expected a name that ends in one of .json"),
    "thresholds below a file": (["thresholds", "--out=file/a.json"], "cannot be written (Not a directory)"),
    "compile of nothing": (["compile"], "compile needs --config"),
    "compile without topology": (compiled(), "and --topology, as in v5e:4x4"),
    "compile for a strange chip": (
        compiled("--topology=v99:2x2"),
        "--topology is 'v99:2x2': expected GENERATION:SHAPE",
    ),
    "compile for a strange shape": (compiled("--topology=v5e:big"), "expected GENERATION:SHAPE"),
    "compile for no slice": (compiled("--topology=v5e:4x4", "--slices=0"), "slices"),
    "compile to a folder": (compiled("--topology=v5e:4x4", "--json=empty"), "--json is 'empty'"),
    "compile below a file": (
        compiled("--topology=v5e:4x4", "--json=file/a.json"),
        "--json file/a.json cannot be written",
    ),
    "compile to a page": (compiled("--topology=v5e:4x4", "--text=a.html"), "--text is 'a.html': expected a name that"),
    "compile fewer samples than none": (compiled("--topology=v5e:4x4", "--sample=-3"), "sample"),
}
ALL = {
    f"{verb}: {case}": line
    for verb, cases in {
        "words": WORDS,
        "sample": SAMPLE,
        "reconstruct": RECONSTRUCT,
        "report": REPORT,
        "train": TRAIN,
        "convert": CONVERT,
        "evaluate": EVALUATE,
        "others": OTHERS,
    }.items()
    for case, line in cases.items()
}


@pytest.mark.parametrize("case", ALL)
def test_bad_input_is_one_line_and_leaves_nothing(case, place, command, monkeypatch):
    words, expected = ALL[case]
    monkeypatch.chdir(place)
    before = contents(place)
    status, _, err = command(*words)
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith("rqjax: ")
    assert expected in err
    assert "Traceback" not in err
    assert len(err) < 700
    assert contents(place) == before


def contents(folder):
    """Its files with the times of their last changes, and its folders."""
    return {path: path.is_file() and path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_second_training_in_one_workdir(place, command, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    with locked(tmp_path / "run"):
        status, _, err = command(*train(workdir=tmp_path / "run"))
    assert (status, err.count("\n")) == (2, 1)
    assert "run is in use by process" in err
