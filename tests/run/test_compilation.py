"""The cache of compiled programs: where it is, how it stays small, and that it costs no more than a line."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from rqjax.errors import InputError
from rqjax.run import compilation

ROOT = pathlib.Path(__file__).parents[2]
NAMES = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's cache folder, for a process that nobody has told of another; JAX's settings come back."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(compilation.VARIABLE, raising=False)
    yield tmp_path / "home"
    for name, value in before.items():
        jax.config.update(name, value)


def place():
    return jax.config.jax_compilation_cache_dir


def test_the_users_cache_folder_unless_somebody_says_another(home, tmp_path, monkeypatch):
    compilation.keep(None)
    assert pathlib.Path(place()).parent == home / "rqjax" / "xla"
    assert pathlib.Path(place()).is_dir()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    monkeypatch.setenv(compilation.VARIABLE, str(tmp_path / "variable"))
    compilation.keep(None)
    assert place() == str(tmp_path / "variable")
    compilation.keep(str(tmp_path / "flag"))
    assert place() == str(tmp_path / "flag")


def test_jaxs_own_setting_stays(home):
    jax.config.update("jax_compilation_cache_dir", "somewhere")
    compilation.keep(None)
    assert place() == "somewhere"
    assert not home.exists()


def test_off_is_off(home):
    compilation.keep("off")
    assert not jax.config.jax_enable_compilation_cache
    assert not home.exists()


def test_no_folder_of_ones_own_costs_a_line_and_one_that_was_asked_for_an_error(home, capsys):
    home.touch()
    compilation.keep(None)
    assert place() is None
    err = capsys.readouterr().err
    assert "compiled programs are not kept (Not a directory): set RQJAX_COMPILATION_CACHE" in err
    assert err.count("\n") == 1
    with pytest.raises(InputError, match=r"no compilation cache can be in .*below \(Not a directory\): choose another"):
        compilation.keep(str(home / "below"))


def test_programs_that_were_used_longest_ago_leave(tmp_path):
    for age in range(4):
        path = tmp_path / f"{age}-cache"
        path.write_bytes(b"x" * 10)
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "other").write_bytes(b"x" * 100)
    compilation._prune(tmp_path, 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-cache", "1-cache", "other"]


def test_a_small_program_is_kept(tmp_path):
    code = "import jax; from rqjax.run import compilation; compilation.keep(None); jax.jit(lambda x: x + 1)(1.0)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_C", "JAX_PER"))}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list(tmp_path.glob("rqjax/xla/*/*-cache"))
