"""Statistics of two processes, which hold half of each batch each: those of one, over a count that divides nothing."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rqjax import metrics
from tests.two_processes import lines_of

IMAGES, BATCH = 37, 16
PROCESS = """
import json
from rqjax.run import hosts
hosts.join()
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding
from rqjax import mesh, metrics
from tests.metrics.test_two_processes import BATCH, IMAGES, images_and_kernel, look

over = mesh.make_mesh()
rows, whole = (NamedSharding(over, spec) for spec in (mesh.rows(over), jax.P()))
images, kernel = images_and_kernel()
place = lambda x: jax.make_array_from_callback(x.shape, rows, lambda index: x[index])
features, sums = metrics.Moments(24), 0.0
see, add = jax.jit(look), jax.jit(lambda a, b, c: jnp.sum(jnp.where(c, metrics.psnr(a, b), 0.0)), out_shardings=whole)
for start in range(0, len(images), BATCH):
    image, counts = place(images[start : start + BATCH]), place(np.arange(start, start + BATCH) < IMAGES)
    assert not image.is_fully_addressable
    features.add(see(image, kernel), counts)
    sums += np.float64(add(image, 0.9 * image, counts))
own = features.count
found = features.of_all_processes()
print(json.dumps({"own": own, "count": found.count, "mean": found.gaussian().mean.tolist(),
                  "covariance": found.gaussian().covariance.tolist(), "psnr": sums / found.count}), flush=True)
jax.distributed.shutdown()
"""


def images_and_kernel():
    """Whole batches of images [48 8 8 3], of which IMAGES count, and what makes 24 features of each."""
    draw = np.random.default_rng(0)
    count = -(-IMAGES // BATCH) * BATCH
    return draw.uniform(size=(count, 8, 8, 3)).astype(np.float32), draw.normal(size=(192, 24)).astype(np.float32)


def look(images, kernel):
    return jax.nn.relu(images.reshape(len(images), -1) @ kernel)


@pytest.mark.slow
def test_statistics_of_two_processes_are_those_of_one(figures):
    ended = lines_of(PROCESS, timeout=900)
    first, second = (json.loads(next(line for line in lines if line.startswith('{"own"'))) for lines in ended)
    # each had its own rows, and both have the same sums
    assert (first["own"], second["own"]) == (8 + 8 + 5, 8 + 8)
    assert {**first, "own": 0} == {**second, "own": 0}
    images, kernel = (x[:IMAGES] if len(x.shape) == 4 else x for x in images_and_kernel())
    one = metrics.Moments(24)
    one.add(np.asarray(look(images, kernel)))
    assert first["count"] == one.count == IMAGES
    gaussian = one.gaussian()
    distance = metrics.frechet_distance(
        metrics.Gaussian(np.asarray(first["mean"]), np.asarray(first["covariance"])),
        metrics.Gaussian(np.zeros(24), np.eye(24)),
    )
    expected = metrics.frechet_distance(gaussian, metrics.Gaussian(np.zeros(24), np.eye(24)))
    figures("Frechet distance over 2 processes and over 1, relative difference", f"{abs(distance / expected - 1):.1e}")
    assert distance == pytest.approx(expected, rel=1e-6)
    # some features are nearly always cut off: what is left of them is the rounding of larger terms
    for name, expected in {"mean": gaussian.mean, "covariance": gaussian.covariance}.items():
        np.testing.assert_allclose(first[name], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    psnr = metrics.psnr(jnp.asarray(images), jnp.asarray(0.9 * images))
    assert first["psnr"] == pytest.approx(float(jnp.mean(psnr)), rel=1e-6)
