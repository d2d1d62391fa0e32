"""The page in a browser, clicked as a person clicks it. Slow, and skipped where there is no Chromium."""

import io
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the extra demo is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="the extra browser is not installed")

ROOT = pathlib.Path(__file__).parent.parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SOON = 300_000
"""Milliseconds within which all comes that comes: a first drawing compiles."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: Debian and Ubuntu have it as `apt install chromium`"),
]


@pytest.fixture(scope="module", params=["rq", "dq"])
def address(request, folders, tmp_path_factory):
    """The page of a prior of the tests, served by the console script."""
    words = ["demo", "--prior", str(folders[request.param]), "--port", "0", "--pause", "3"]
    base = tmp_path_factory.mktemp("demo")
    with open(base / "stderr", "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "rqjax", *words],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(base)},
        )
    try:
        while not (found := re.search(r"http://[\d.:]+", line := process.stdout.readline())):
            assert line, (base / "stderr").read_text()
        yield found[0]
    finally:
        process.terminate()
        process.wait(60)
    assert (base / "stderr").read_text() == ""


@pytest.fixture
def page(address):
    """The page, open. At its end nothing was asked of another machine, and the browser has met no error."""
    asked, errors = [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1300, "height": 1000})
        shown.set_default_timeout(SOON)
        shown.on("request", lambda request: asked.append(request.url))
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.goto(address)
        shown.wait_for_selector("#draw")
        yield shown
        browser.close()
    assert asked
    assert not [url for url in asked if not url.startswith((address, "data:", f"blob:{address}"))]
    assert errors == []


def says(page, name, words):
    """Waits until a line of the page holds the words; the line."""
    page.wait_for_function(
        "([name, words]) => document.querySelector(`#${name} textarea`)?.value.includes(words)", arg=[name, words]
    )
    return page.input_value(f"#{name} textarea")


def picture(page, name):
    """The pixels of a picture of the page."""
    address = page.get_attribute(f"#{name} img", "src")
    return np.asarray(Image.open(io.BytesIO(page.request.get(address).body())))


def draw(page, seed):
    """A click, and the pictures at its end: the last one, and the number of those of all levels."""
    page.get_by_label("Seed").fill(str(seed))
    page.click("#draw")
    page.wait_for_function(
        """seed => {
            const [, now, all, by] = document.querySelector("#line textarea").value
                .match(/level (\\d+) of (\\d+) .*seed (\\d+)$/) || []
            return by == seed && now == all && document.querySelectorAll("#film img").length == all
        }""",
        arg=seed,
    )
    page.wait_for_load_state("networkidle")
    return picture(page, "picture"), page.locator("#film img").count()


def png(size, name):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)).save(out, "png")
    return {"name": name, "mimeType": "image/png", "buffer": out.getvalue()}


def test_images_are_drawn_level_by_level_with_the_settings_of_the_form(page):
    page.evaluate(
        """() => {
            window.lines = []
            setInterval(() => window.lines.push(document.querySelector("#line textarea").value), 20)
        }"""
    )
    first, levels = draw(page, 1)
    seen = page.evaluate("[...new Set(window.lines)].filter(line => line)")
    assert len(seen) == levels >= 2  # each level was seen
    assert seen[0].startswith(f"level 1 of {levels}")
    other, _ = draw(page, 2)
    assert other.shape == first.shape
    assert not np.array_equal(other, first)
    page.get_by_label("Top-k").fill("1")  # then the seed decides nothing
    greedy, _ = draw(page, 3)
    assert np.array_equal(draw(page, 4)[0], greedy)
    page.get_by_label("Class").click()
    page.get_by_role("option").nth(2).click()
    assert not np.array_equal(draw(page, 5)[0], greedy)
    page.locator("#count label").first.click()
    assert draw(page, 6)[0].size < greedy.size


def test_what_cannot_be_drawn_is_a_line_and_the_page_goes_on(page):
    page.get_by_label("Top-k").fill("-3")
    page.click("#draw")
    assert says(page, "line", "top_k") == "top_k is -3: expected a whole number from 0 to 2147483647"
    page.get_by_label("Top-k").fill("0")
    draw(page, 1)


def test_ones_own_images_have_codes_maps_and_partial_decodes(page):
    page.get_by_role("tab", name="Your images").click()
    send = lambda *files: page.set_input_files("input[type=file]", list(files))  # noqa: E731
    send(png(40, "a.png"), png(50, "b.png"))
    told = says(page, "told", "dB")
    page.wait_for_selector("#strip img")
    assert picture(page, "strip").shape[1] > 3 * 96
    codes = page.input_value("#codes textarea")
    assert "image 2, " in codes
    assert ("grains (" in codes) == ("coarse" in told)
    whole = png(40, "damaged.png")
    send({**whole, "buffer": whole["buffer"][:300]})
    assert says(page, "told", "damaged.png").startswith("damaged.png: the image cannot be read (")
    assert page.locator("#strip img").count() == 0
    send(*[png(20 + i, f"{i}.png") for i in range(9)])
    assert says(page, "told", "9 files") == "9 files: choose at most 8 at once"
    send({**whole, "name": "large.png", "buffer": bytes(17 * 2**20)})
    page.get_by_text(re.compile("exceeds|too large|size", re.IGNORECASE)).first.wait_for()
    send(png(30, "c.png"))
    assert "image 1, " in (says(page, "told", "dB") and page.input_value("#codes textarea"))
