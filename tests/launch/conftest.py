"""launch/local.sh in a checkout of its own, with any program as rqjax, so that nothing is installed."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.stand_in.launchers import ROOT


def check_out(folder: pathlib.Path) -> pathlib.Path:
    """As much of the tree as launch/local.sh reads."""
    shutil.copytree(ROOT / "launch", folder / "launch")
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def local(tmp_path):
    """A callable (program, *words, **environ) that starts local.sh in a checkout whose rqjax is a shell script."""
    checkout = check_out(tmp_path / "checkout")
    binaries = checkout / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(sys.executable)
    wanted = f"{checkout.resolve()}\n" + "".join(
        (checkout / f).read_text() for f in ("constraints.txt", "pyproject.toml")
    )
    (checkout / ".venv" / "installed-base").write_text(wanted)

    def start(program: str, *words: str, **environ: str) -> subprocess.Popen:
        (binaries / "rqjax").write_text("#!/usr/bin/env bash\n" + program)
        (binaries / "rqjax").chmod(0o755)
        # what nohup and background jobs ignore, bash cannot trap
        command = ["env", "--default-signal", "bash", str(checkout / "launch" / "local.sh"), *words]
        return subprocess.Popen(
            command, env=dict(os.environ, **environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start
