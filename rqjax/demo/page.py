"""The page: a form for a prior's images, and a button for one's own. All it shows comes from this machine."""

import functools
from collections.abc import Iterator
from typing import Any

import gradio as gr

from rqjax.api.prior import LoadedPrior
from rqjax.demo.drawing import COUNTS, LONGEST, draw
from rqjax.demo.upload import MOST, examine

WAITING = 16
"""Requests in the queue: those beyond are told to come again."""
CSS = """
#codes textarea { font-family: monospace; white-space: pre; overflow-x: auto }
#picture .image-frame { width: min(100%, 400px) }
#picture .image-frame img { width: 100%; object-fit: contain; image-rendering: pixelated }
"""


def theme() -> gr.themes.Base:
    """The look of the page, with letters that every browser has."""
    return gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def page(prior: LoadedPrior, *, pause: float) -> gr.Blocks:
    """The page of a prior, which a server has yet to show, with a `pause` of seconds between two levels of a picture.

    One request is computed at a time.
    """

    def drawn(*fields: Any) -> Iterator[tuple[Any, ...]]:
        yield from draw(prior, *fields, pause=pause)

    with gr.Blocks(title="rqjax demo", analytics_enabled=False) as blocks:
        gr.Markdown(f"# rqjax\n```\n{prior!r}\n```")
        with gr.Tab("New images"), gr.Row():
            with gr.Column(scale=1):
                fields = _form(prior)
                button = gr.Button("Draw", variant="primary", elem_id="draw")
                line = gr.Textbox(label="What happened", interactive=False, elem_id="line")
            with gr.Column(scale=2):
                picture = _image("The images by their first codes, then by more", "picture")
                film = gr.Gallery(label="All levels", format="png", columns=4, height="auto", elem_id="film")
        with gr.Tab("Your images"):
            upload = gr.UploadButton(
                f"Choose up to {MOST} images", file_count="multiple", file_types=["image"], elem_id="upload"
            )
            told = gr.Textbox(label="What happened", interactive=False, elem_id="told")
            strip = _image("The image, and what the first levels of its codes make of it", "strip")
            codes = gr.Textbox(label="Codes", lines=12, max_lines=24, interactive=False, elem_id="codes")
        one_at_a_time: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        button.click(drawn, fields, [picture, film, line], **one_at_a_time)
        upload.upload(functools.partial(examine, prior.tokenizer), upload, [strip, codes, told], **one_at_a_time)
    return blocks.queue(max_size=WAITING, api_open=False)


def _form(prior: LoadedPrior) -> list[Any]:
    """The fields in the order in which draw() takes them, with the run's own settings."""
    described, own = prior.described, prior.settings
    led, guided = described.condition.field, bool(described.condition_dropout)
    if led is None:
        said = gr.State(None)
    elif led == "text":
        words = prior.run.vocabulary is not None
        said = gr.Textbox(label="Caption" if words else "Caption as token ids", max_length=LONGEST, elem_id="said")
    else:
        names = prior.classes or tuple(map(str, range(described.condition.choices)))
        said = gr.Dropdown([(name, i) for i, name in enumerate(names)], value=0, label="Class", elem_id="said")
    return [
        said,
        gr.Radio(list(COUNTS), value=COUNTS[1], label="Images", elem_id="count"),
        gr.Slider(0, 2, value=own.temperature, step=0.05, label="Temperature", elem_id="temperature"),
        gr.Number(own.top_k, precision=0, label="Top-k: the likeliest codes that stay, 0 for all", elem_id="top_k"),
        gr.Slider(0.05, 1, value=own.top_p, step=0.05, label="Top-p", elem_id="top_p"),
        gr.Slider(
            0, 10, value=own.guidance, step=0.25, label="Guidance: 1 is none", visible=guided, elem_id="guidance"
        ),
        gr.Number(value=0, precision=0, label="Seed", elem_id="seed"),
    ]


def _image(label: str, name: str) -> gr.Image:
    return gr.Image(label=label, format="png", interactive=False, elem_id=name, buttons=["fullscreen", "download"])
