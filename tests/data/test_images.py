import numpy as np
from PIL import Image

from rqjax.data.images import enlarge, named_rows, tile, to_float, to_uint8
from rqjax.store.outputs import write_picture


def test_pixels_survive_the_round_trip():
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_float(image)
    assert float(x.min()) == -1.0
    assert float(x.max()) == 1.0
    assert np.array_equal(to_uint8(x), image)
    assert np.array_equal(to_uint8(np.float32([[[-3.0], [3.0]]])), [[[0], [255]]])


def test_tile_and_enlarge():
    rows = np.zeros((2, 3, 4, 5, 3), np.uint8)
    rows[1, 2] = 7
    picture = tile(rows, gap=2)
    assert picture.shape == (2 * 6 - 2, 3 * 7 - 2, 3)
    assert (picture[6:, 14:] == 7).all()
    assert (picture[4:6] == 255).all()
    assert tile(rows, gap=0).shape == (8, 15, 3)
    assert enlarge(picture, 3).shape == (30, 57, 3)


def test_rows_have_their_names_beside_them():
    picture = np.full((60, 40, 3), 128, np.uint8)
    named = named_rows(picture, ["hat", "ankle boot"])
    margin = named.shape[1] - 40
    assert named.shape[0] == 60
    assert np.array_equal(named[:, margin:], picture)
    dark = named[:, :margin].min(-1) < 100
    assert dark[:30].any()
    assert dark[30:].sum() > dark[:30].sum()  # the longer name
    assert not dark[[0, 29, 30, 59]].any()  # each within its row


def test_png_is_written_whole(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_picture(tmp_path / "new" / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), picture)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]
