"""The page over HTTP, without a browser: its bounds, and that it points at no other machine."""

import os
import re
import time

import pytest

pytest.importorskip("gradio", reason="the extra demo is not installed")
from fastapi.testclient import TestClient

from rqjax.demo import limits, page, server
from rqjax.errors import InputError


@pytest.fixture
def browser(prior, tmp_path, monkeypatch):
    """A client of the page, from this machine; its folder of uploads is `tmp_path`."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    app = server.application(page.page(prior, pause=0.0), tmp_path, loopback=True)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield client


def upload(client, *contents):
    return client.post(limits.UPLOAD, files=[("files", (f"{i}.png", content)) for i, content in enumerate(contents)])


def test_the_page_shows_the_prior_and_points_nowhere_else(browser, prior):
    answer = browser.get("/")
    assert answer.status_code == 200
    assert prior.run.path.name in answer.text
    loaded = re.findall(r"""(?:<script[^>]*src|<link[^>]*href|url\()=?["'(]?(https?://[^"')]+)""", answer.text)
    loaded += re.findall(r"""(?:url\(|@import )["']?(https?://[^"')]+)""", browser.get("/theme.css").text)
    assert loaded == []
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert browser.get("/config").json()["analytics_enabled"] is False


def test_uploads_are_bounded_in_size(browser, tmp_path):
    good = upload(browser, b"x" * 100)
    assert good.status_code == 200
    assert len(list(tmp_path.rglob("0.png"))) == 1
    big = upload(browser, *[b"x" * 2**20] * 17)
    assert (big.status_code, big.text) == (413, "files of more than 16 MiB in all are not taken")
    stream = browser.post(limits.UPLOAD, content=iter([b"x"] * 3))
    assert (stream.status_code, stream.text) == (411, "a request without its length is not taken")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_uploads_are_bounded_in_number_and_old_ones_go(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "KEPT_FILES", 3)
    assert [upload(browser, bytes([i])).status_code for i in range(4)] == [200, 200, 200, 413]
    assert upload(browser, b"x").text == "too many files have come: wait some minutes"
    for path in tmp_path.rglob("*.png"):
        os.utime(path, (0, time.time() - limits.KEPT_SECONDS - 1))
    assert upload(browser, b"x").status_code == 200
    assert len(list(tmp_path.rglob("*.png"))) == 1


def test_other_names_reach_the_page_only_if_it_was_told_so(browser, prior, tmp_path):
    answer = browser.get("/", headers={"host": "evil.example:7860"})
    assert answer.status_code == 421
    assert "answers to localhost" in answer.text
    assert browser.get("/", headers={"host": "localhost:7860"}).status_code == 200
    assert browser.get("/", headers={"host": "[::1]:7860"}).status_code == 200
    open_to_all = server.application(page.page(prior, pause=0.0), tmp_path, loopback=False)
    with TestClient(open_to_all, base_url="http://some.machine") as client:
        assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.8.8.8", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback_is_known(host, loopback):
    assert server.is_loopback(host) == loopback


def test_a_port_that_is_taken_is_refused_in_one_line():
    with server.listening("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert server.address_of(first) == f"http://127.0.0.1:{port}"
        with pytest.raises(InputError, match=rf"nothing can listen at port {port} of 127.0.0.1 \(Address already in"):
            server.listening("127.0.0.1", port)
    with pytest.raises(InputError, match=r"nothing can listen at port 80 of no\.such.host.invalid"):
        server.listening("no.such.host.invalid", 80)
