"""A loaded model on its way to a model hub: a folder like those of `rqjax convert --to_safetensors`, and a card."""

import pathlib
import tempfile

from rqjax.api.card import FILE, card
from rqjax.errors import InputError, printable
from rqjax.run.directory import Run
from rqjax.store import hub, model_folder


def push(
    run: Run,
    tokenizer: Run,
    address: str,
    *,
    codes: str,
    ema: bool,
    licence: str | None,
    private: bool | None,
    message: str | None,
) -> str:
    """Publishes a run's model; of a prior with `tokenizer`, which else is the run itself. Returns the commit's address.

    `codes` are the shapes of its codes in words. The licence of each model is the recorded one, or `licence`. Raises
    InputError if that leaves one without any, or if `licence` is another than the recorded ones, and for what the hub
    refuses.
    """
    place = hub.Address.parse(address)
    runs = list(dict.fromkeys([run, tokenizer]))
    recorded = list(dict.fromkeys(filter(None, (each.licence for each in runs))))
    unknown = [each for each in runs if not each.licence]
    if unknown and not (licence or "").strip():
        raise InputError(f"{unknown[0].path} has no licence recorded: say under which its weights go out, licence=...")
    if licence and not unknown and licence not in recorded:
        raise InputError(
            f"licence is {printable(licence, 60)!r}, and these weights are under {printable('; '.join(recorded), 100)}:"
            f" leave it out, or change {model_folder.LICENCE} beside weights that are yours"
        )
    licences = list(dict.fromkeys([*recorded, *([licence.strip()] if licence and unknown else [])]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for each in runs:
            below = folder if each is run else folder / hub.TOKENIZER
            each.export(below, ema=ema, licence=licence or "", paths=False)
        (folder / FILE).write_text(card(run, tokenizer, str(place), codes, licences))
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        said = message or f"{type(run.config.stage.model).__name__.removesuffix('Config')}, {size / 1e6:,.1f} MB"
        return hub.publish(folder, place, said, private)
