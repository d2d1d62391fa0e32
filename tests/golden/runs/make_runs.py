"""Makes the old runs and what the code that wrote them makes of them; README.md says how to call it.

    python make_runs.py runs.tar.xz

packs the runs, the exported folders, and truth.json. It runs under commit 0365ea0 only: later code has other
configurations. The runs are trained on one device, whose checkpoints are small, and gone on with on eight.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

# as tests/conftest.py has it, since an optimisation may decide the last bit
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        f"--xla_force_host_platform_device_count={1 if 'train' in sys.argv else 8}",
        "--xla_backend_optimization_level=0",
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jaxlib  # noqa: E402
import numpy as np  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")

import rqjax  # noqa: E402
from rqjax import __main__ as console  # noqa: E402
from rqjax.arrays import to_arrays  # noqa: E402
from rqjax.config import Config  # noqa: E402
from rqjax.convert import run_to_folder, to_torch  # noqa: E402
from rqjax.data import DataConfig  # noqa: E402
from rqjax.models.dqtransformer import DQTransformerConfig  # noqa: E402
from rqjax.models.dqvae import DQVAEConfig  # noqa: E402
from rqjax.models.routing import RoutingConfig  # noqa: E402
from rqjax.models.rqtransformer import RQTransformerConfig  # noqa: E402
from rqjax.models.rqvae import RQVAEConfig  # noqa: E402
from rqjax.optim import OptimizerConfig  # noqa: E402
from rqjax.stages.autoencode import AutoencodeConfig  # noqa: E402
from rqjax.stages.predict import PredictConfig  # noqa: E402
from rqjax.train import train  # noqa: E402

MORE = 2
MOVED = {}
SAMPLES = {
    "greedy": ["--temperature=0"],
    "drawn": ["--temperature=2", "--top_k=10", "--top_p=0.95", "--seed=3"],
}


def adam(name: str) -> OptimizerConfig:
    return OptimizerConfig(
        name=name,
        learning_rate=3e-3,
        b1=0.5,
        b2=0.9,
        weight_decay=1e-4 if name == "adamw" else 0.0,
        clip_norm=1.0 if name == "adamw" else 0.0,
        warmup_steps=2,
        schedule="constant",
        min_learning_rate=0.0,
    )


def rqvae() -> RQVAEConfig:
    return RQVAEConfig(
        resolution=8,
        ch=4,
        ch_mult=(1, 1, 1),
        num_res_blocks=1,
        attn_resolutions=(),
        z_channels=4,
        embed_dim=4,
        codes=(12,),
        depth=2,
        code_shape=(2, 2),
        decay=(0.9,),
        restart_threshold=1.0,
        update_once_per_step=False,
        commitment_weight=0.25,
        dtype="float32",
        remat=False,
    )


def dqvae() -> DQVAEConfig:
    return DQVAEConfig(
        resolution=8,
        ch=4,
        ch_mult=(1, 1, 1),
        num_res_blocks=1,
        attn_resolutions=(),
        decoder_ch=4,
        decoder_ch_mult=(1, 1),
        decoder_num_res_blocks=1,
        decoder_attn_resolutions=(),
        position="fourier+learned",
        window_size=2,
        z_channels=4,
        embed_dim=4,
        codes=12,
        decay=0.9,
        restart_threshold=1.0,
        commitment_weight=0.25,
        grains=2,
        routing=RoutingConfig(
            router="feature",
            exact_ratio=False,
            ratios=(0.5,),
            budget_weight=1.0,
            groups=4,
            layers=2,
            activation="silu",
            entropy_bins="-1_1",
            thresholds=(),
        ),
        dtype="float32",
        remat=False,
    )


def rqtransformer() -> RQTransformerConfig:
    return RQTransformerConfig(
        code_shape=(2, 2),
        depth=2,
        vocab=(12,),
        dim=16,
        input_dim=4,
        body_layers=1,
        head_layers=1,
        body_heads=2,
        head_heads=2,
        classes=10,
        text_vocab=0,
        text_length=1,
        input_emb_vqvae=True,
        head_emb_vqvae=True,
        cumsum_depth_ctx=True,
        shared_tok_emb=True,
        shared_cls_emb=True,
        embedding_dropout=0.0,
        dropout=0.1,
        attention_dropout=0.1,
        sigmoid_gelu=False,
        dtype="float32",
        remat=False,
        target="soft",
        temperature=0.01,
        stochastic=True,
        loss_chunk=2,
        image_loss_weight=1.0,
        text_loss_weight=0.0,
    )


def dqtransformer() -> DQTransformerConfig:
    return DQTransformerConfig(
        grids=(2, 4),
        codebook_size=12,
        classes=10,
        order="region-first",
        dim=16,
        heads=2,
        position_layers=1,
        content_layers=1,
        block_size=24,
        embedding_dropout=0.0,
        dropout=0.1,
        attention_dropout=0.1,
        dtype="float32",
        remat=False,
        pack=False,
        row_length=24,
        rows_per_image=1.0,
        pack_groups=1,
        loss_chunk=8,
        position_loss_weight=1.0,
        content_loss_weight=1.0,
    )


def tokenizer_run(model) -> Config:
    dual = isinstance(model, DQVAEConfig)
    stage = AutoencodeConfig(
        model=model,
        reconstruction="l1" if dual else "mse",
        perceptual_weight=0.0,
        vgg16_path="",
        vgg16_verify=True,
        lpips_dtype="float32",
        gan="hinge",
        disc_weight=0.75,
        disc_weight_max=0.75 if dual else 0.0,
        disc_loss_weight=0.75,
        disc_start=0,
        adaptive=True,
        disc_ndf=4,
        disc_num_layers=1,
        disc_groups=1,
        optimizer=adam("adam"),
        discriminator_optimizer=adam("adam"),
        ema_decay=0.0 if dual else 0.8,
        codebook_updates_per_step=2 if dual else 1,
    )
    return run(stage, 40)


def prior_run(model, tokenizer, path: str) -> Config:
    stage = PredictConfig(
        model=model,
        tokenizer=tokenizer,
        tokenizer_path=path,
        optimizer=adam("adamw"),
        accumulate=2 if isinstance(model, RQTransformerConfig) else 1,
        ema_decay=0.8,
    )
    return run(stage, 200)


def run(stage, steps: int) -> Config:
    data = DataConfig(name="fashion_mnist", resize=8, size=8, batch=16, threads=1)
    return Config(stage=stage, data=data, steps=steps, log_every=20, preview_every=1000, save_every=1000, keep=1)


def configs() -> dict[str, Config]:
    return {
        "rqvae": tokenizer_run(rqvae()),
        "rqtransformer": prior_run(rqtransformer(), rqvae(), "rqvae"),
        "dqvae": tokenizer_run(dqvae()),
        "dqtransformer": prior_run(dqtransformer(), dqvae(), "dqvae"),
    }


def sha256(x) -> str:
    x = np.ascontiguousarray(x)
    return hashlib.sha256(f"{x.dtype} {x.shape}".encode() + x.tobytes()).hexdigest()[:16]


def digests(tensors) -> dict[str, str]:
    return {key: sha256(tensor() if callable(tensor) else tensor) for key, tensor in tensors.items()}


def images() -> np.ndarray:
    """Two images of waves, NHWC in [-1, 1], the same on every machine."""
    y, x, channel = np.meshgrid(np.arange(8), np.arange(8), np.arange(3), indexing="ij")
    waves = [((3 * y + 5 * x * (channel + 1)) % 8 - 3.5) / 3.5, ((y * x + channel) % 5 - 2) / 2]
    return np.stack(waves).astype(np.float32)


def state_dict(path: str, ema: bool):
    kept = pathlib.Path(path) / "tokenizer"
    return to_torch(rqjax.load(path, ema=ema), rqjax.load(kept) if kept.exists() else None)


def program(*words: str) -> None:
    sys.argv = ["rqjax", *words]
    console.main()


def truth(name: str, config: Config, scratch: pathlib.Path) -> dict:
    """What this code makes of the run `name` in the working directory."""
    found = {"state_dict": {str(ema): digests(state_dict(name, ema)) for ema in (True, False)}}
    if name.endswith("vae"):
        codes = rqjax.load(name).encode(images())
        parts = {"codes": codes} if isinstance(codes, jax.Array) else {"codes": codes.codes, "grain": codes.grain}
        found["codes"] = {part: np.asarray(value).tolist() for part, value in parts.items()}
    else:
        found["samples"] = {}
        for kind, words in SAMPLES.items():
            program("sample", f"--prior={name}", "--label=1,8", "--count=2", *words, f"--out={scratch / kind}.npz")
            with np.load(scratch / f"{kind}.npz") as data:
                found["samples"][kind] = data["image"].tolist()
    again = scratch / name
    shutil.copytree(name, again)
    state = train(dataclasses.replace(config, steps=config.steps + MORE), again)
    assert int(state.step) == config.steps + MORE  # nothing told it to leave
    found["resumed"] = sorted(sha256(x) for x in to_arrays(state).values())
    for ema in (True, False):
        before, after = state_dict(name, ema), state_dict(str(again), ema)
        for key, tensor in before.items():
            if not callable(tensor):
                MOVED[f"{name}/{ema}/{key}"] = (np.asarray(after[key]) - np.asarray(tensor)).astype(np.float16)
    return found


def machine() -> str:
    """What decides the last bit of a result: processor, its number of cores, XLA's version and flags."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    about = sorted({line for line in lines if line.startswith(("vendor_id", "model", "flags"))})
    parts = [*about, str(os.cpu_count()), jaxlib.__version__, " ".join(os.environ["XLA_FLAGS"].split())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def train_all() -> None:
    """Trains every run in the working directory, and exports one prior of each kind, with its tokenizer."""
    for name, config in configs().items():
        train(config, pathlib.Path(name))
    for name in ("rqtransformer", "dqtransformer"):
        run_to_folder(name, f"{name}-folder")


def pack(target: pathlib.Path) -> None:
    """Packs the working directory without TensorBoard's files, which bear a machine's name, owners and times."""

    def clean(entry: tarfile.TarInfo):
        if "tensorboard" in entry.name:
            return None
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    for note in pathlib.Path().rglob("commit_success.txt"):
        note.write_text(note.read_text().replace(f"{pathlib.Path().absolute()}/", ""))  # no paths of this machine
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(pathlib.Path().iterdir()):
            archive.add(path.name, filter=clean)


def main(target: pathlib.Path) -> None:
    here, script, target = pathlib.Path(rqjax.__file__).parent, pathlib.Path(__file__).absolute(), target.absolute()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
    about = {"commit": commit.stdout.strip(), "machine": machine(), "more": MORE, "words": SAMPLES}
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as scratch:
        os.chdir(work)  # runs name each other by relative paths
        subprocess.run([sys.executable, str(script), "train"], check=True)
        runs = {name: truth(name, config, pathlib.Path(scratch)) for name, config in configs().items()}
        np.savez_compressed("moved.npz", **MOVED)
        pathlib.Path("truth.json").write_text(json.dumps(about | {"runs": runs}))
        pack(target)


if __name__ == "__main__":
    train_all() if sys.argv[1] == "train" else main(pathlib.Path(sys.argv[1]))
