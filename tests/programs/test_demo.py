"""The program: bad input in one line, and the page from start to end."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from tests.api.conftest import folders  # noqa: F401

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_bad_input_is_one_line(command, folders, tmp_path, monkeypatch):  # noqa: F811
    tokenizer = folders["rq"] / "tokenizer"
    for words, line in (
        ((), "demo needs --prior DIR"),
        (("--prior", tmp_path / "none"), "none"),
        (("--prior", tokenizer), "holds no prior: expected the run directory of one"),
        (("--prior", tokenizer, "--port", "70000"), "port"),
        (("--prior", tokenizer, "--label", "Bag"), "label"),
    ):
        status, out, error = command("demo", *words)
        assert (status, out) == (2, "")
        assert line in error
        assert error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "gradio", None)
    status, _, error = command("demo", "--prior", tokenizer)
    assert (status, error) == (2, "rqjax: demo needs gradio: `pip install 'rqjax[demo]'` brings it\n")


@pytest.mark.parametrize(("end", "status", "said"), [("SIGINT", 130, "rqjax: demo: interrupted\n"), ("SIGTERM", 0, "")])
def test_the_page_is_served_until_it_is_ended(folders, tmp_path, end, status, said):  # noqa: F811
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    words = ["demo", "--prior", str(folders["rq"]), "--port", "0", "--compilation_cache", "off"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "rqjax", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell runs behind itself
    )
    try:
        printed = ""
        while not (found := re.search(r"the page is at (http://127\.0\.0\.1:\d+)", printed)):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            printed += line
        with urllib.request.urlopen(found[1], timeout=60) as answer:
            assert b"rqjax" in answer.read()
        assert "reaches this machine" not in printed
        assert list(tmp_path.glob("rqjax_demo_*"))
        process.send_signal(getattr(signal, end))
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (status, said)
        assert not list(tmp_path.glob("rqjax_demo_*"))
    finally:
        process.kill()
        process.wait()
