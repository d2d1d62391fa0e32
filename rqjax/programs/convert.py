"""Models to and from other formats: `rqjax convert --from_torch model.pt --torch_config config.yaml --out DIR`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from rqjax.errors import InputError
from rqjax.official import documents as official
from rqjax.official import imported
from rqjax.run import directory
from rqjax.run.config import to_dict
from rqjax.store import checkpoint, model_folder
from rqjax.torchfile import file

FLAGS = flags.FlagValues()
FROM_TORCH = flags.DEFINE_string(
    "from_torch", None, "A .pt or .ckpt file of the official programs, to a model's folder.", flag_values=FLAGS
)
TORCH_CONFIG = flags.DEFINE_string(
    "torch_config", None, "The official YAML file of --from_torch, as it was published.", flag_values=FLAGS
)
TO_TORCH = flags.DEFINE_string(
    "to_torch", None, "A run directory, to a .pt file that the official programs load.", flag_values=FLAGS
)
TO_SAFETENSORS = flags.DEFINE_string(
    "to_safetensors", None, "A run directory, to a folder of config.json and model.safetensors.", flag_values=FLAGS
)
FROM_SAFETENSORS = flags.DEFINE_string(
    "from_safetensors", None, "Such a folder, to a run directory with a checkpoint.", flag_values=FLAGS
)
OUT = flags.DEFINE_string("out", None, "What to write; it must not exist yet.", flag_values=FLAGS)
EMA = flags.DEFINE_bool(
    "ema", None, "Averaged weights: from a .pt if asked; from a run that kept them unless --noema.", flag_values=FLAGS
)
TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "With --from_torch of a prior: its imported tokenizer, to be kept with it.", flag_values=FLAGS
)
LICENCE = flags.DEFINE_string(
    "licence", None, f"Of the imported weights; for RQ models {official.RQ_LICENCE}.", flag_values=FLAGS
)


def main(_: Sequence[str]) -> None:
    """Converts what the flags describe."""
    directions = (FROM_TORCH, TO_TORCH, TO_SAFETENSORS, FROM_SAFETENSORS)
    given = [flag for flag in directions if flag.value]
    if len(given) != 1 or not OUT.value:
        raise InputError(f"convert needs --out and one of {', '.join(f'--{flag.name}' for flag in directions)}")
    for flag, partner in ((TORCH_CONFIG, FROM_TORCH), (TOKENIZER, FROM_TORCH), (LICENCE, FROM_TORCH)):
        if flag.value and not partner.value:
            raise InputError(f"--{flag.name} says something about --{partner.name}, which is not given")
    out = OUT.value
    if FROM_TORCH.value:
        if not TORCH_CONFIG.value:
            raise InputError("--from_torch needs --torch_config FILE.yaml, the official configuration of the model")
        torch_to_folder(
            FROM_TORCH.value,
            TORCH_CONFIG.value,
            out,
            ema=bool(EMA.value),
            tokenizer=TOKENIZER.value,
            licence=LICENCE.value,
        )
    elif TO_TORCH.value:
        run_to_torch(TO_TORCH.value, out, ema=EMA.value is not False)
    elif TO_SAFETENSORS.value:
        run_to_folder(TO_SAFETENSORS.value, out, ema=EMA.value is not False)
    else:
        folder_to_run(str(FROM_SAFETENSORS.value), out)
    print(f"{out}: written")
    for licence in directory.licences(out):
        print(f"licence of the weights: {licence}")


def from_torch(state_dict: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """The model, of NumPy arrays, that an official state dict (NumPy arrays by key) holds.

    `config` is the `arch` section of an RQ config with `vocab_size` filled in, or the `model` section of a DQ config;
    of a DQ stage-2 state dict this is the prior (its tokenizer: `first_stage_config`, and keys without their prefix).
    Raises InputError naming unknown options, and keys that are missing, unknown or of another shape.
    """
    return official.import_model(state_dict, official.model_config(config))


def to_torch(model: Any, tokenizer: Any = None) -> dict[str, Any]:
    """The official state dict of a model, the inverse of from_torch: NumPy arrays, most of them views on ours.

    That of a DQ prior holds its `tokenizer` too, and functions in the place of masks, which make them: give all of it
    to rqjax.torchfile.file.save.
    """
    return official.export_model(model, tokenizer)


def torch_to_folder(
    path: str,
    config_path: str,
    out: str,
    *,
    ema: bool = False,
    tokenizer: str | None = None,
    licence: str | None = None,
) -> None:
    """Writes the model in an official file as a folder of its own; a prior's tokenizer into its folder `tokenizer`.

    Raises InputError, and leaves nothing, for files that are damaged, unknown or don't fit each other.
    """
    described = official.read(official.read_yaml(config_path))
    terms = described.licence if licence is None else licence
    with model_folder.new_folder(out) as folder:
        contents = file.load(path, verify=True)
        state_dict = official.weights(contents, ema)
        config = imported.run_config(described)
        if described.tokenizer is not None:
            first = imported.tokenizer_config(described.tokenizer)
            model = official.import_model(official.first_stage(state_dict), described.tokenizer)
            model_folder.save(folder / directory.TOKENIZER, to_dict(first), {"model": model}, terms)
        if tokenizer is not None:
            _keep_tokenizer(tokenizer, config, folder / directory.TOKENIZER)
        model = official.import_model(state_dict, described.model)
        items, rest = imported.other_items(config, contents, state_dict, official.export_model(model))
        model_folder.save(folder, to_dict(config), {"model": model, **items}, terms)
        imported.save_rest(folder, rest)


def _keep_tokenizer(source: str, config: Any, folder: pathlib.Path) -> None:
    """Puts a copy of a tokenizer into a prior's folder, if the prior can read its codes."""
    if not hasattr(config.stage, "tokenizer"):
        raise InputError("--tokenizer is for priors, and this is a tokenizer itself: leave it out")
    theirs, model = directory.load_tokenizer(source)
    directory.check_tokenizer(config, theirs)
    config.stage.tokenizer = theirs.stage.model
    model_folder.save(folder, to_dict(theirs), {"model": model}, "\n".join(directory.licences(source)))


def run_to_torch(run: str, out: str, *, ema: bool = True) -> None:
    """Writes a run's model, and its discriminator if it has one, as a .pt file that the official programs load."""
    _refuse_existing(out)
    config, model = directory.load_model(run, ema=ema)
    kept = pathlib.Path(run) / directory.TOKENIZER
    tokenizer = directory.load_model(kept)[1] if checkpoint.exists(kept) else None
    file.save(out, imported.contents(run, config, to_torch(model, tokenizer)))


def run_to_folder(run: str, out: str, *, ema: bool = True) -> None:
    """Writes a run's model, and a prior's tokenizer, as a folder that is enough to sample."""
    with model_folder.new_folder(out) as folder:
        for source, target in (
            (pathlib.Path(run), folder),
            (pathlib.Path(run) / directory.TOKENIZER, folder / directory.TOKENIZER),
        ):
            if source == pathlib.Path(run) or checkpoint.exists(source):
                config, model = directory.load_model(source, ema=ema)
                model_folder.save(target, to_dict(config), {"model": model}, model_folder.read_licence(source))


def folder_to_run(source: str, out: str) -> None:
    """Writes a model's folder as a run directory with one checkpoint, of step 0."""
    if not model_folder.holds_model(source):
        raise InputError(f"{source} holds no model.safetensors: expected a folder that --to_safetensors wrote")
    with model_folder.new_folder(out) as folder:
        _, model = directory.load_model(source)
        checkpoint.copy_model(source, folder, model)
        kept = pathlib.Path(source) / directory.TOKENIZER
        if checkpoint.exists(kept):
            checkpoint.copy_model(kept, folder / directory.TOKENIZER, directory.load_model(kept)[1])


def _refuse_existing(out: str) -> None:
    path = pathlib.Path(out)
    if path.exists() or path.is_symlink():
        raise InputError(f"{out} exists already: choose another place, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
