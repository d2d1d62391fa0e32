import jax
import numpy as np
import pytest
from PIL import Image

from rqjax.data import DataConfig, HeldOut
from rqjax.errors import InputError
from rqjax.mesh import make_mesh


@pytest.fixture
def folder(tmp_path):
    """21 held-out images in the gray of their number, one of which is no image."""
    for k in range(21):
        (tmp_path / "val").mkdir(exist_ok=True)
        Image.new("RGB", (12, 12), (k,) * 3).save(tmp_path / "val" / f"{k:02d}.png")
    (tmp_path / "train").mkdir()
    Image.new("RGB", (12, 12), (99,) * 3).save(tmp_path / "train" / "one.png")
    (tmp_path / "val" / "05.png").write_bytes(b"no image")
    return DataConfig(name="folder", path=str(tmp_path), size=12, batch=8, threads=2)


def counted(images: HeldOut):
    batches = [jax.device_get(batch) for batch in images]
    assert {batch["image"].shape for batch in batches} == {(8, 12, 12, 3)}
    return [int(image[0, 0, 0]) for batch in batches for image in batch["image"][batch["counts"]]]


@pytest.mark.parametrize("mesh", ["1x1", "8x1", "4x2"])
def test_every_readable_image_counts_once(folder, mesh):
    devices = jax.devices()[: 1 if mesh == "1x1" else 8]
    images = HeldOut(folder, "validation", 8, make_mesh(mesh, devices))
    assert len(images) == 3
    assert counted(images) == [k for k in range(21) if k != 5]
    assert counted(images) == [k for k in range(21) if k != 5]  # each time


def test_a_limit_leaves_out_the_rest(folder):
    images = HeldOut(folder, "validation", 8, make_mesh("1x1", jax.devices()[:1]), limit=2)
    assert counted(images) == [k for k in range(16) if k != 5]


def test_a_batch_that_no_mesh_splits_is_refused(folder):
    with pytest.raises(InputError, match=r"data.batch=12 is not a multiple of the 8 parts"):
        HeldOut(folder, "validation", 12, make_mesh("8x1"))


def test_rows_keep_their_types(folder):
    batch = next(iter(HeldOut(folder, "validation", 8, make_mesh("8x1"))))
    assert {name: str(x.dtype) for name, x in batch.items()} == {"counts": "bool", "image": "uint8", "label": "int32"}
    np.testing.assert_array_equal(batch["counts"], [True] * 5 + [False] + [True] * 2)
