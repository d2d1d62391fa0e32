"""Models to and from other formats: `rqjax convert --from_torch model.pt --torch_config config.yaml --out DIR`."""

import pathlib
from collections.abc import Sequence

from rqjax.dq.convolutions import DQVAEConfig
from rqjax.errors import InputError, printable
from rqjax.flags.convert import (
    EMA,
    ENTROPY_BINS,
    FROM_SAFETENSORS,
    FROM_TORCH,
    LICENCE,
    OUT,
    TO_SAFETENSORS,
    TO_TORCH,
    TOKENIZER,
    TORCH_CONFIG,
)
from rqjax.official import contents, documents, to_torch
from rqjax.official.convert import first_stage, import_model
from rqjax.official.thresholds import Entropy
from rqjax.run.config import Config, to_dict
from rqjax.run.directory import TOKENIZER as TOKENIZER_FOLDER
from rqjax.run.directory import Run
from rqjax.stages.predict import PredictConfig
from rqjax.store import model_folder, outputs
from rqjax.store.safetensor_file import save_safetensors
from rqjax.torchfile import file


def main(_: Sequence[str]) -> None:
    """Converts the model that the flags name."""
    directions = (FROM_TORCH, TO_TORCH, TO_SAFETENSORS, FROM_SAFETENSORS)
    given = [flag for flag in directions if flag.value]
    out = OUT.value
    if len(given) != 1 or not out:
        raise InputError(f"convert needs --out and one of {', '.join(f'--{flag.name}' for flag in directions)}")
    for flag in (TORCH_CONFIG, TOKENIZER, LICENCE, ENTROPY_BINS):
        if flag.value and not FROM_TORCH.value:
            raise InputError(f"--{flag.name} says something about --from_torch, which is not given")
    if FROM_TORCH.value:
        if not TORCH_CONFIG.value:
            raise InputError("--from_torch needs --torch_config FILE.yaml, the official configuration of the model")
        beside = {"tokenizer": TOKENIZER.value, "licence": LICENCE.value, "entropy_bins": ENTROPY_BINS.value}
        torch_to_folder(FROM_TORCH.value, TORCH_CONFIG.value, out, ema=bool(EMA.value), **beside)
    elif TO_TORCH.value:
        run_to_torch(TO_TORCH.value, out, ema=EMA.value is not False)
    elif TO_SAFETENSORS.value:
        run_to_folder(TO_SAFETENSORS.value, out, ema=EMA.value is not False)
    else:
        folder_to_run(str(FROM_SAFETENSORS.value), out)
    print(f"{out}: written")
    if (FROM_TORCH.value or TO_TORCH.value) and (bins := _entropy_bins(Run.open(TO_TORCH.value or out).config)):
        print(f"its router's entropies have the bins {bins}: 0_1 is that of the published weights, -1_1 that of the")
        print("official code since July 2023 (the official files do not say it; see --entropy_bins)")
    for licence in [] if TO_TORCH.value else Run.open(out).licences:
        print(f"licence of the weights: {printable(licence, 200)}")


def torch_to_folder(
    path: str,
    config_path: str,
    out: str,
    *,
    ema: bool = False,
    tokenizer: str | None = None,
    licence: str | None = None,
    entropy_bins: str | None = None,
) -> None:
    """Writes the model in an official file as a folder of its own; a prior's tokenizer into its folder `tokenizer`.

    Raises InputError, and leaves nothing, for files that are damaged, unknown or don't fit each other.
    """
    entropy = Entropy(entropy_bins or "0_1", pathlib.Path(config_path).parent)
    described = documents.read(documents.read_yaml(config_path), entropy)
    if entropy_bins and not _entropy_bins(described.run):
        raise InputError("--entropy_bins is for models that route by entropy, and this does not: leave it out")
    terms = described.licence if licence is None else licence
    with model_folder.new_folder(out) as folder:
        held = file.load(path, verify=True)
        state_dict = contents.weights(held, ema)
        config, first = described.run, described.tokenizer
        if first is not None:
            model = import_model(first_stage(state_dict), first.model)
            model_folder.save(folder / TOKENIZER_FOLDER, to_dict(first.run), {"model": model}, terms)
        if tokenizer is not None:
            if not isinstance(config.stage, PredictConfig):
                raise InputError("--tokenizer is for priors, and this is a tokenizer itself: leave it out")
            run = Run.open(tokenizer).tokenizer()
            config.stage.model.check_tokenizer(run.tokenizer_config)
            config.stage.tokenizer = run.tokenizer_config
            run.export(folder / TOKENIZER_FOLDER)
        model = import_model(state_dict, described.model)
        items, rest = contents.other_items(config, held, state_dict, to_torch(model))
        model_folder.save(folder, to_dict(config), {"model": model, **items}, terms)
        if rest:
            save_safetensors(folder / contents.REST, rest, checksums=True)


def _entropy_bins(config: Config) -> str:
    """The bins of the entropies that a tokenizer, or a prior's, routes by; empty if it does not."""
    tokenizer = config.stage.tokenizer if isinstance(config.stage, PredictConfig) else config.stage.model
    if not isinstance(tokenizer, DQVAEConfig) or tokenizer.routing.router != "entropy":
        return ""
    return tokenizer.routing.entropy_bins


def run_to_torch(path: str, out: str, *, ema: bool = True) -> None:
    """Writes a run's model, and its discriminator if it has one, as a .pt file that the official programs load."""
    target = outputs.checked(out, (".pt", ".pth", ".ckpt"))
    run = Run.open(path)
    tokenizer = run.kept_tokenizer.model() if run.kept_tokenizer else None
    content = contents.contents(run, to_torch(run.model(ema=ema), tokenizer))
    target.parent.mkdir(parents=True, exist_ok=True)
    file.save(target, content)


def run_to_folder(path: str, out: str, *, ema: bool = True) -> None:
    """Writes a run's model, and a prior's tokenizer, as a folder that is enough to sample."""
    with model_folder.new_folder(out) as folder:
        run = Run.open(path)
        run.export(folder, ema=ema)
        if run.kept_tokenizer:
            run.kept_tokenizer.export(folder / TOKENIZER_FOLDER, ema=ema)


def folder_to_run(source: str, out: str) -> None:
    """Writes a model's folder as a run directory with one checkpoint, of step 0."""
    if not model_folder.holds_model(source):
        raise InputError(f"{source} holds no model.safetensors: expected a folder that --to_safetensors wrote")
    with model_folder.new_folder(out) as folder:
        run = Run.open(source)
        run.write(folder, run.model())
        if run.kept_tokenizer:
            run.kept_tokenizer.write(folder / TOKENIZER_FOLDER, run.kept_tokenizer.model())
