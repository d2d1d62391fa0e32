"""Eight fake devices and a compilation cache, set before JAX is imported; golden cases; a table of figures."""

import fcntl
import gc
import json
import os
import pathlib
import resource
import shutil

HERE = pathlib.Path(__file__).parent
MOST_MIB = 4096
"""The memory of a worker beyond which it lets go of programs."""
# tests compile far more than they compute: optimisations cost more than they save here, and so do a CPU's emitters of
# fused kernels, which set up a compiler of their own for each (half of the time to compile a transformer)
FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(HERE.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from tests.golden.deterministic import det_array, det_image  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")


def pytest_collection_finish():
    """Millions of objects live as long as a worker: walking over them often is 5 % of its time."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def _room():
    """Lets go of compiled programs behind a file of tests that leaves many: a worker kept 9 GiB of them at the end, and
    one has died of a fault while it wrote another into the cache.
    """
    yield
    if _resident() > MOST_MIB:
        jax.clear_caches()
        gc.collect()


def _resident() -> float:
    """The memory of this process, in MiB; 0 where the system does not tell it so."""
    told = pathlib.Path("/proc/self/statm")
    pages = int(told.read_text().split()[1]) if told.exists() else 0
    return pages * resource.getpagesize() / 2**20


def equal(a, b) -> bool:
    """Whether two trees hold the same arrays under the same names, bit for bit."""
    from rqjax.store.arrays import to_arrays  # not before jaxtyping's hook is there to check the package

    a, b = to_arrays(a), to_arrays(b)
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


class Golden:
    """One golden case: its numbers, and the weights that the rule in tests/golden/README.md makes for it."""

    def __init__(self, name: str):
        folder = HERE / "golden" / name
        self.meta = json.loads((folder / "meta.json").read_text())
        with np.load(folder / "data.npz") as data:
            self.data = dict(data)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {key: self.array(key, shape) for key, shape in self.meta["param_shapes"].items()}

    def array(self, key: str, shape) -> np.ndarray:
        """The weight of one key; entries of a shared codebook all equal those of the first."""
        shared = self.meta.get("hparams", {}).get("shared_codebook")
        if shared and key.startswith("quantizer.codebooks."):
            key = ".".join(["quantizer.codebooks.0", *key.split(".")[3:]])
        scale = 2**0.5 if self.meta["kind"] in ("lpips", "inception_fid") and len(shape) >= 2 else 1.0
        if self.meta["kind"] == "dqtransformer" and key == "pos_emb":
            scale = 0.02 * np.prod(shape[1:]) ** 0.5
        return det_array(key, shape) * np.float32(scale) if scale != 1.0 else det_array(key, shape)

    def image(self, name: str, shape) -> np.ndarray:
        """A rule-made image, NHWC in [-1, 1], of NCHW `shape`."""
        return det_image(name, shape).transpose(0, 2, 3, 1)


def digest(key: str, x: np.ndarray) -> np.ndarray:
    """[L2 norm, inner product with the key's probe] of a tensor in PyTorch's layout, in float64."""
    x = np.asarray(x, np.float64)
    if x.ndim == 1:
        import zlib

        probe = np.random.RandomState(zlib.crc32(("probe:" + key).encode())).standard_normal(x.shape)
    else:
        probe = det_array("probe:" + key, x.shape)
    return np.array([np.linalg.norm(x), np.sum(x * probe)])


def nhwc(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def rounding(terms: int, size: float = 1.0) -> float:
    """The largest difference that rounding makes between two float32 evaluations of one sum, in any two orders.

    One evaluation of a sum of `terms` products errs by at most terms * 2**-24 * size, where `size` bounds the sum of
    the products' magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1); two of them
    differ by at most twice that. Errors of sums of sums add up: `terms` is then the total length of the sums that one
    result has passed through. With the default size the bound is relative.
    """
    return terms * 2.0**-23 * size


def transformer_terms(layers: int, dim: int, tokens: int) -> int:
    """`terms` of a gradient through `layers` layers: forward and backward, sums over 10 times `dim`, and all tokens."""
    return 2 * layers * (10 * dim + 2 * tokens) + tokens


def assert_same_gradients(ours, expected, terms: int):
    """Two gradients of one function within rounding: the largest entry stands for the size of what is summed."""
    ours, expected = jax.tree.leaves(ours), jax.tree.leaves(expected)
    largest = max(float(jnp.abs(x).max()) for x in expected)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rounding(terms, largest))


def assert_near(ours, expected, tolerance=1e-4):
    """One shape, and a distance within `tolerance` of the expected norm."""
    ours, expected = np.asarray(ours), np.asarray(expected)
    assert ours.shape == expected.shape
    assert np.linalg.norm(ours - expected) <= tolerance * np.linalg.norm(expected)


def assert_digests(tensors: dict[str, np.ndarray], expected: dict[str, list[float]], noise: set[str] = frozenset()):
    """Every expected digest within 1e-3 of its own norm, but for the keys in `noise` (zero in exact arithmetic)."""
    assert set(expected) - set(tensors) == set()
    wrong = {}
    for key, value in expected.items():
        if key not in noise:
            error = np.abs(digest(key, tensors[key]) - value).max() / max(abs(value[0]), 1e-30)
            if error > 1e-3:
                wrong[key] = (error, value)
    assert not wrong, wrong


def noise_keys(grad_digest: dict[str, list[float]]) -> set[str]:
    """Keys whose gradient is rounding noise: a norm under 1e-5 of the largest."""
    largest = max(norm for norm, _ in grad_digest.values())
    return {key for key, (norm, _) in grad_digest.items() if norm < 1e-5 * largest}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A callable: the run directory of a variant of tests/configs/tiny.py, to be read or copied, never changed.

    Each is trained once in a session, by the process that first asks for it; the others wait, then find it whole. The
    tokenizer that a prior was trained on is gone afterwards, so that the prior's own copy must be enough.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # a worker has a folder of its own in it

    def run(variant: str) -> pathlib.Path:
        from rqjax.programs.train import train  # not before jaxtyping's hook is there to check the package
        from tests.configs.tiny import get_config

        config, folder = get_config(variant), shared / "tiny" / variant
        part, lent = folder.with_suffix(".part"), folder.with_suffix(".lent")
        folder.parent.mkdir(exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder
            if variant.endswith("transformer"):
                config.stage.tokenizer_path = str(shutil.copytree(run(variant.replace("transformer", "vae")), lent))
            train(config, part)
            shutil.rmtree(lent, ignore_errors=True)
            return part.rename(folder)

    return run


@pytest.fixture
def golden():
    return Golden


@pytest.fixture
def figures(request):
    """A callable (what, found) that adds one row to the table of measured figures at the end of the session."""

    def record(what: str, found: str) -> None:
        request.node.user_properties.append(("figure", (what, found)))  # reports carry them, from xdist's workers too

    return record


def pytest_terminal_summary(terminalreporter):
    reports = [r for group in terminalreporter.stats.values() for r in group if getattr(r, "when", "") == "call"]
    rows = [(*row, r.outcome) for r in reports for name, row in r.user_properties if name == "figure"]
    if not rows:
        return
    width = max(len(what) for what, _, _ in rows)
    terminalreporter.section("figures")
    for what, found, outcome in rows:
        terminalreporter.line(f"{what:<{width}}  {found}" + ("" if outcome == "passed" else f"  [{outcome}]"))
