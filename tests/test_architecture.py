"""Imports point one way: programs -> config -> stages -> models -> nets, quantize; nothing imports a program."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent / "rqjax"
SPINE = {
    "arrays",
    "checkpoint",
    "data",
    "disk",
    "errors",
    "images",
    "log",
    "mesh",
    "metrics",
    "optim",
    "remote",
    "text",
}
PROGRAMS = {
    "quickstart",
    "train",
    "encode",
    "sample",
    "reconstruct",
    "evaluate",
    "report",
    "convert",
    "compile",
    "thresholds",
}
ALLOWED = {
    "quantize": set(),
    "nets": {"mesh", "errors"},
    "models": {"nets", "quantize", "mesh", "errors"},
    "stages": {"models", "nets", "quantize", "pytorch"} | SPINE,
    "pytorch": {"models", "nets", "quantize", "arrays", "errors"},
    "config": {"stages", "models", "data", "optim", "errors"},
    "runs": {"config", "hub", "stages", "pytorch"} | SPINE,
    "arrays": {"mesh", "errors"},
    "checkpoint": {"arrays", "disk", "hub", "mesh", "remote", "errors"},
    "hub": {"arrays", "pytorch", "remote", "errors"},
    "log": {"remote", "errors"},
    "presets": {"stages", "models", "data", "optim", "errors"},
    "imported": {"checkpoint", "config", "models", "nets", "presets", "pytorch", "stages", "errors"},
    "optim": {"mesh", "errors"},
    "mesh": {"errors"},
    "training_step": {"config", "stages", "mesh"},
    "chips": set(),
    "flops": set(),
    "hlo": set(),
    "data": {"errors", "images", "mesh", "sources", "augment"},
    "sources": {"errors"},
    "augment": {"errors"},
}
"""What each room may import; a room of the spine that is not named here imports errors alone."""
COMPOSES = {"quickstart": {"reconstruct", "report", "sample", "train"}}
"""The one program made of programs."""


def imports(path: pathlib.Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rqjax":
            parts = (node.module or "").split(".")[1:]
            yield from [parts[0]] if parts else [alias.name for alias in node.names]
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("rqjax."))


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_imports_point_one_way():
    files = [p for p in ROOT.rglob("*.py") if room_of(p) not in {"__init__", "__main__"} and p.name != "__init__.py"]
    assert len(files) > 20
    for path in files:
        room = room_of(path)
        found = set(imports(path)) - {room}
        if room in PROGRAMS:
            wrong = (found & PROGRAMS) - COMPOSES.get(room, set())
        else:
            wrong = found - ALLOWED.get(room, {"errors"})
        assert not wrong, f"{path.relative_to(ROOT.parent)} imports {sorted(wrong)}"


def test_nothing_reaches_for_pytorch_or_tensorflow():
    for path in ROOT.rglob("*.py"):
        names = [a.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import) for a in n.names]
        names += [n.module or "" for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        assert not {name.split(".")[0] for name in names} & {"torch", "tensorflow"}, path


def test_no_junk_drawers():
    drawers = {"utils", "helpers", "common", "misc", "base"}
    assert not [path for path in ROOT.rglob("*.py") if path.stem in drawers]
