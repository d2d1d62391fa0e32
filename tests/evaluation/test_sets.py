"""Sets of images compared, and statistics of real ones as files, with a judge whose features are plain numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax import metrics
from rqjax.api.batches import Batches
from rqjax.errors import InputError
from rqjax.evaluation import reference, sets
from rqjax.evaluation.judges import CLASSIFIER, INCEPTION, Judge, Looked
from rqjax.evaluation.sets import Collected, compared
from rqjax.metrics.protocols import Score
from rqjax.store import outputs

RNG = np.random.default_rng(0)
REAL, MADE = (RNG.normal(shift, 1, (40, 6)).astype(np.float32) for shift in (0, 0.3))
LOGITS = RNG.normal(0, 1, (40, 4)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (9, 4, 4, 3), np.uint8)


def look(image):
    rows = jnp.mean(jnp.asarray(image, jnp.float32).reshape(len(image), 8, 6), axis=1)
    return Looked(rows, 2 * rows[:, :3], rows[:, :4])


def judge(title=INCEPTION, **about):
    said = {"sha256": "a", "resize": "none", "pixels": "bytes", **about}
    return Judge(title, said, look, Score(bias=True, size=5000), 6, 3 if title == INCEPTION else 0)


def collected(features, spatial=None, keep=None, batch=16):
    """A set that is added in batches, the last of them filled up with what must not count."""
    found = Collected(keep)
    for start in range(0, len(features), batch):
        rows = [x[start : start + batch] for x in (features, LOGITS[: len(features)])]
        counts = np.arange(batch) < len(rows[0])
        padded = [np.concatenate([x, np.full((batch - len(x), x.shape[1]), 1e6, np.float32)]) for x in rows]
        found.add(Looked(padded[0], None if spatial is None else 3 * padded[0][:, :3], padded[1]), counts)
    return found


@pytest.fixture(scope="module")
def batches():
    return Batches.over(jax.local_devices()[:1], 4)


def test_figures_are_those_of_the_metrics_whatever_the_batches():
    real, made = collected(REAL, spatial=True).reference({}), collected(MADE, spatial=True)
    found = compared(judge(), made, real)
    plain = [metrics.Moments(6), metrics.Moments(6)]
    for sums, rows in zip(plain, (REAL, MADE), strict=True):
        sums.add(rows)
    assert made.count == real.count == 40
    assert found["frechet"] == pytest.approx(metrics.frechet_distance(*[x.gaussian() for x in plain]), rel=1e-9)
    assert found["spatial"] > 0
    assert found["score"] == pytest.approx(metrics.inception_score(LOGITS, [0, 40])[0], rel=1e-9)
    kernel = metrics.kernel_distance(MADE, REAL, subsets=1, size=40, seed=sets.SEED)
    assert found["kernel"] == pytest.approx(kernel[0], rel=1e-9)
    assert found["monge"] == metrics.mind(REAL, MADE, directions=sets.DIRECTIONS, seed=sets.SEED)
    assert (found["precision"], found["recall"]) == metrics.precision_recall(REAL, MADE)


def test_a_score_of_fewer_images_than_its_parts_is_left_out():
    by_ten = dataclasses.replace(judge(), score=Score(bias=False, parts=10))
    real = collected(REAL).reference({})
    assert "score" not in compared(by_ten, collected(MADE[:9]), real)
    assert "score" in compared(by_ten, collected(MADE[:10]), real)


def test_real_images_keep_the_features_of_the_first():
    kept = collected(REAL, keep=20)
    assert np.array_equal(kept.features, REAL[:20])
    assert len(kept.logits) == 20
    assert kept.count == 40


def test_names_say_the_judge():
    figures = {"frechet": 1.0, "spatial": 2.0, "score": 3.0, "score_deviation": 4.0, "recall": 5.0}
    assert judge().named(figures, "r") == {"rFID": 1.0, "rsFID": 2.0, "IS": 3.0, "IS_deviation": 4.0, "recall": 5.0}
    assert not {"FID", "rFID", "IS", "KID"} & set(judge(CLASSIFIER).named(figures, "r"))


@pytest.mark.parametrize("title", [INCEPTION, CLASSIFIER])
def test_statistics_come_back_as_they_were(tmp_path, batches, title):
    path, spatial = tmp_path / "real.npz", True if title == INCEPTION else None
    kept = collected(REAL, spatial).reference({"split": "train"})
    reference.save(path, kept, judge(title))
    reference.check_file(str(path), title)
    found = reference.load(str(path), judge(title), batches, 4)
    assert np.array_equal(found.gaussian.covariance, kept.gaussian.covariance)
    assert np.array_equal(found.features, REAL)
    assert (found.spatial is None) == (spatial is None)
    assert found.count == 40
    assert found.about["made_of"] == {"split": "train"}
    figures = [compared(judge(title), collected(MADE, spatial), each) for each in (kept, found)]
    assert figures[0] == figures[1]
    with pytest.raises(InputError, match=r"was made with sha256 a, this evaluation has b: make one by --save_ref"):
        reference.load(str(path), judge(title, sha256="b"), batches, 4)


def test_official_files_are_read(tmp_path, batches):
    """ADM's have statistics of all images and some of these, pytorch-fid's the former alone, samples the latter."""
    whole = {"mu": np.zeros(6), "sigma": np.eye(6), "mu_s": np.zeros(3), "sigma_s": np.eye(3)}
    outputs.write_arrays(tmp_path / "adm.npz", **whole, arr_0=IMAGES)
    adm = reference.load(str(tmp_path / "adm.npz"), judge(), batches, 4)
    assert np.array_equal(adm.gaussian.covariance, np.eye(6))
    assert adm.spatial is not None
    np.testing.assert_allclose(adm.features, look(IMAGES).features, rtol=1e-6)
    outputs.write_arrays(tmp_path / "fid.npz", mu=np.zeros(6), sigma=np.eye(6))
    plain = reference.load(str(tmp_path / "fid.npz"), judge(), batches, 4)
    assert plain.spatial is plain.features is plain.count is None
    assert set(compared(judge(), collected(MADE), plain)) == {"frechet", "score", "score_deviation"}
    outputs.write_arrays(tmp_path / "samples.npz", arr_0=IMAGES)
    samples = reference.load(str(tmp_path / "samples.npz"), judge(CLASSIFIER), batches, 4)
    assert samples.count == 9
    np.testing.assert_allclose(samples.gaussian.mean, np.mean(look(IMAGES).features, axis=0), rtol=1e-6)


WRONG = {
    "no archive": (b"hello", INCEPTION, "cannot be read"),
    "nothing of use": ({"x": np.zeros(3)}, INCEPTION, "holds x: expected .npz with mu and sigma"),
    "Inception's for a classifier": ({"mu": np.zeros(6), "sigma": np.eye(6)}, CLASSIFIER, "pass --inception FILE"),
    "other features": ({"mu": np.zeros(5), "sigma": np.eye(5)}, INCEPTION, "of shapes (5,) and (5, 5): expected"),
    "no covariance": ({"mu": np.zeros(6), "sigma": np.zeros(6)}, INCEPTION, "of shapes (6,) and (6,): expected"),
    "NaN": ({"mu": np.zeros(6), "sigma": np.full((6, 6), np.nan)}, INCEPTION, "expected finite ones"),
    "grey images": ({"arr_0": IMAGES[..., 0]}, INCEPTION, "expected uint8 (n, h, w, 3)"),
    "images of another size": ({"arr_0": IMAGES[:, :2]}, CLASSIFIER, "has images of 2x4: expected 4x4"),
    "pickled": ({"mu": np.array([{}]), "sigma": np.eye(1)}, INCEPTION, "is damaged"),
    "not our words": ({"mu": np.zeros(6), "sigma": np.eye(6), "about": np.array("[")}, INCEPTION, "damaged (about)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_files_are_refused_in_one_line(case, tmp_path, batches):
    content, title, words = WRONG[case]
    path = tmp_path / "x.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)

    def read():
        reference.check_file(str(path), title)
        reference.load(str(path), judge(title), batches, 4)

    with pytest.raises(InputError) as error:
        read()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
