"""What the tests of the launchers share: a commit to launch, and the cloud that is not one."""

import json
import os
import pathlib
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).parent.parent.parent
STAND_IN = ROOT / "tests" / "stand_in"


def check_out(folder: pathlib.Path) -> pathlib.Path:
    """The tree as it is, committed in a repository of its own: what is sent to workers is a commit."""
    folder.mkdir()
    for name in ("rqjax", "configs", "launch"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false", "-C", str(folder)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True)
    return folder


class Cloud:
    """The stand-in, and the launcher run against it."""

    def __init__(self, folder: pathlib.Path, checkout: pathlib.Path):
        self.folder, self.checkout = folder, checkout
        folder.mkdir()
        self.environ = dict(os.environ, STAND_IN=str(folder), PATH=f"{STAND_IN}:{os.environ['PATH']}")
        for name in [name for name in self.environ if name.startswith(("RQJAX_", "SLURM_", "CLOUDSDK_"))]:
            del self.environ[name]
        assert shutil.which("gcloud", path=self.environ["PATH"]) == str(STAND_IN / "gcloud")

    def program(self, text: str) -> None:
        """What rqjax is on the workers: a shell script that knows who it is by $RQJAX_PROCESS_ID."""
        path = self.folder / "program"
        path.write_text("#!/usr/bin/env bash\n" + text)
        path.chmod(0o755)
        self.environ["STAND_IN_RQJAX"] = str(path)

    def events(self, *events: dict) -> None:
        (self.folder / "events.json").write_text(json.dumps(events))

    def start(self, *words: str) -> subprocess.Popen:
        command = ["bash", str(self.checkout / "launch" / "tpu.sh"), *words]
        return subprocess.Popen(
            command, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )

    def run(self, *words: str, timeout: int = 60) -> tuple[int, str]:
        process = self.start(*words)
        out, _ = process.communicate(timeout=timeout)
        return process.returncode, out

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        """What was asked of the cloud, looks at its state left out."""
        return [call[3] for call in self.calls() if call[3] != "describe"]

    def gone(self) -> bool:
        return not (self.folder / "machine.json").exists()


def wait_for(path: pathlib.Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
