"""Imports point one way: programs -> api -> run -> stages -> rq, dq -> nets, quantize; the rest knows no model."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent / "rqjax"
SPINE = {"errors", "checks", "files", "mesh", "interface"}
MODELS = SPINE | {"nets", "quantize"}
STAGES = MODELS | {"data", "optim", "metrics"}
RUN = STAGES | {"stages", "rq", "dq", "store", "torchfile"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "flags": set(),
    "quantize": set(),
    "metrics": set(),
    "cost": set(),
    "checks": {"errors"},
    "mesh": {"errors"},
    "optim": {"checks", "mesh", "errors"},
    "data": {"checks", "files", "mesh", "store", "errors"},
    "store": {"files", "mesh", "errors"},
    "nets": {"mesh", "errors"},
    "interface": {"nets", "quantize"},
    "torchfile": {"nets", "store", "errors"},
    "rq": MODELS,
    "dq": MODELS,
    "stages": STAGES | {"rq", "store", "torchfile"},
    "run": RUN | {"flags"},
    "official": RUN | {"run"},
    "api": RUN | {"run"},
    "evaluation": RUN | {"run", "api"},
    "demo": RUN | {"run", "api"},
    "report": RUN | {"run", "api", "evaluation"},
    "programs": RUN | {"flags", "demo", "report", "evaluation", "api", "run", "official", "cost"},
}
"""The rooms that each room may import."""
COMPOSES = {"quickstart": {"reconstruct", "train"}}
"""The one program made of programs."""


def imported(path: pathlib.Path) -> set[tuple[str, ...]]:
    """The modules of rqjax that a file imports, as parts of their names, relative imports included."""
    found = set()
    package = ("rqjax", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = (*start, *filter(None, (node.module or "").split(".")))
            # the last part may be a module or a name in one: both name the room
            found |= {(*module, alias.name) for alias in node.names}
    return {parts[1:] for parts in found if parts[0] == "rqjax" and len(parts) > 1}


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def files() -> list[pathlib.Path]:
    return [path for path in ROOT.rglob("*.py") if room_of(path) not in {"__init__", "__main__"}]


def test_imports_point_one_way():
    for path in files():
        room = room_of(path)
        wrong = {parts[0] for parts in imported(path)} - {room} - ALLOWED[room]
        assert not wrong, f"{path.relative_to(ROOT.parent)} imports {sorted(wrong)}"


def test_programs_import_no_programs():
    for path in (ROOT / "programs").glob("*.py"):
        others = {parts[1] for parts in imported(path) if parts[0] == "programs"} - {path.stem}
        assert others == COMPOSES.get(path.stem, set()), path


def test_a_relative_import_is_seen(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "quantize" / "codebook.py"
    path.parent.mkdir()
    path.write_text("from ..rq import vae\nfrom .residual import fold\nimport rqjax.mesh\n")
    assert imported(path) == {("rq", "vae"), ("quantize", "residual", "fold"), ("mesh",)}


def test_every_room_is_listed_and_exists():
    assert {room_of(path) for path in files()} == set(ALLOWED)


def test_nothing_reaches_for_pytorch_or_tensorflow():
    for path in ROOT.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
        names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
        assert not {name.split(".")[0] for name in names} & {"torch", "tensorflow"}, path


def test_flags_import_no_model():
    """So that help, and mistakes in a flag, answer at once."""
    words = "import sys, pkgutil, importlib, rqjax.flags as flags\n"
    words += (
        "for module in pkgutil.iter_modules(flags.__path__): importlib.import_module(f'rqjax.flags.{module.name}')\n"
    )
    words += "import rqjax.__main__, rqjax.programs.configs\n"
    words += "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True).stdout.split()
    assert {"absl", "rqjax"} <= set(loaded)
    assert not {"jax", "flax", "numpy", "orbax", "grain", "matplotlib"} & set(loaded)


def test_no_junk_drawers():
    drawers = {"utils", "helpers", "common", "misc", "base"}
    assert not [path for path in ROOT.rglob("*.py") if path.stem in drawers]
