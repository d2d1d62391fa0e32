import json
import pathlib
import runpy

import pytest
from PIL import Image

from rqjax.data import DataConfig, open_source

SCRIPT = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "examples" / "emoji_set.py"))
RUNNER, TONE, WOMAN = "1F3C3", "1F3C3-1F3FB", "1F3C3-200D-2640-FE0F"


@pytest.mark.parametrize(
    ("code", "base"),
    [
        (RUNNER, "1f3c3"),
        (TONE, "1f3c3"),
        (WOMAN, "1f3c3"),
        ("0023-FE0F-20E3", "23-20e3"),
        ("1F1E6-1F1E8", "1f1e6-1f1e8"),
    ],
)
def test_variants_have_one_base(code, base):
    assert SCRIPT["base"](SCRIPT["key"](code)) == base


def test_a_set_has_captions_and_no_variant_on_both_sides(tmp_path):
    (tmp_path / "from").mkdir()
    entries = [
        {"hexcode": RUNNER, "label": "person running", "skins": [{"hexcode": TONE, "label": "person running: light"}]},
        {"hexcode": WOMAN, "label": "woman running"},
        *({"hexcode": f"1F6{k}", "label": f"sign {k}"} for k in range(10, 90)),
        {"hexcode": "1F999", "label": "without an image"},
    ]
    for name in (RUNNER, TONE, WOMAN, *(f"1F6{k}" for k in range(10, 90)), "00A9-fe0f"):
        Image.new("RGBA", (128, 128), (200, 0, 0, 0)).save(tmp_path / "from" / f"{name.lower()}.webp")
    (tmp_path / "names.json").write_text(json.dumps(entries))
    made = SCRIPT["main"](tmp_path / "from", tmp_path / "names.json", tmp_path / "out", holdout=0.3)
    assert sum(made.values()) == 83
    train, held = (
        open_source(DataConfig(name="captions", path=str(tmp_path / "out"), split=split, size=64, batch=1))
        for split in ("train", "validation")
    )
    assert 10 < len(held) < 40
    sides = [{source[i]["caption"] for i in range(len(source))} for source in (train, held)]
    runners = {"person running", "person running: light", "woman running"}
    assert runners <= sides[0] or runners <= sides[1]
    assert sides[0].isdisjoint(sides[1])
    picture = Image.open(train.paths[0])
    assert (picture.size, picture.getpixel((0, 0))) == ((64, 64), (255, 255, 255))
