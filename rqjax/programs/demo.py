"""A local page for a prior: `rqjax demo --prior runs/quickstart/rqtransformer`."""

import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Sequence

import rqjax.api
from rqjax.api.prior import LoadedPrior
from rqjax.errors import InputError
from rqjax.flags.demo import DTYPE, EMA, HOST, PAUSE, PORT, PRIOR, TOKENIZER
from rqjax.run import devices

SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Of gradio and of what comes with it: they report nothing to anybody."""


def main(_: Sequence[str]) -> None:
    """Serves the page until Ctrl-C."""
    if PRIOR.value is None:
        raise InputError("demo needs --prior DIR, the run directory of a prior")
    if importlib.util.find_spec("gradio") is None:
        raise InputError("demo needs gradio: `pip install 'rqjax[demo]'` brings it")
    prior = rqjax.api.load(PRIOR.value, ema=EMA.value, tokenizer=TOKENIZER.value, dtype=DTYPE.value)
    if not isinstance(prior, LoadedPrior):
        raise InputError(f"--prior {PRIOR.value} holds no prior: expected the run directory of one")
    devices.say()
    print(f"{prior!r}\n{prior.tokenizer!r}", flush=True)  # which reads both, so that a damaged file is told of here
    with tempfile.TemporaryDirectory(prefix="rqjax_demo_") as folder:
        _serve(prior, pathlib.Path(folder))


def _serve(prior: LoadedPrior, folder: pathlib.Path) -> None:
    os.environ.update(SETTINGS, GRADIO_TEMP_DIR=str(folder))
    from rqjax.demo import page, server  # here, since gradio reads these settings when it is imported

    loopback = server.is_loopback(HOST.value)
    with server.listening(HOST.value, PORT.value) as listener:
        app = server.application(page.page(prior, pause=PAUSE.value), folder, loopback=loopback)
        print(f"the page is at {server.address_of(listener)} until Ctrl-C; a first drawing compiles", flush=True)
        if not loopback:
            print("whoever reaches this machine at that port can use it", flush=True)
        server.serve(app, listener)
