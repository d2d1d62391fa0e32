"""Mutants of every format that may come from a stranger: `FORMATS[name](chance)` is the content of one file."""

import copy
import io
import json
import random
from collections.abc import Callable

import numpy as np
import yaml
from PIL import Image

from rqjax.run.config import to_dict
from tests.configs.tiny import get_config
from tests.fuzz.grammar import noise
from tests.fuzz.torch_files import pickle_bare, pickle_legacy, pickle_zip, tensors, zip_headers
from tests.official_files import DOCUMENTS

STRANGE = (
    None,
    True,
    "",
    "x",
    "\x1b[2J\u202e",
    -1,
    0,
    1,
    3,
    1.5,
    -0.0,
    2**31,
    2**63,
    10**40,
    1e308,
    [],
    {},
    [None],
    {"x": 1},
)
# --- documents


def safetensors(chance: random.Random) -> bytes:
    header: dict[str, object] = {}
    position = 0
    for i in range(chance.randrange(5)):
        shape, kind = (
            [chance.randrange(4) for _ in range(chance.randrange(4))],
            chance.choice(("F32", "BF16", "U8", "F4")),
        )
        stop = position + int(np.prod(shape)) * {"F32": 4, "BF16": 2}.get(kind, 1)
        header[chance.choice((f"k{i}", "k0", "\x1b[2J"))] = {
            "dtype": kind,
            "shape": shape,
            "data_offsets": [position, stop],
        }
        position = stop
    if chance.random() < 0.2:
        header["__metadata__"] = chance.choice(({"a": "b"}, {"a": 1}, []))
    text = json.dumps(_changed(header, chance) if chance.random() < 0.5 else header).encode()
    text = noise(text, chance) if chance.random() < 0.4 else text + b" " * (-len(text) % 8)
    length = chance.choice((len(text),) * 8 + (0, 2**63, len(text) + 1, len(text) - 1))
    return (length % 2**64).to_bytes(8, "little") + text + bytes(position + chance.choice((0, 0, 0, 0, 1)))


def _changed(document: object, chance: random.Random, most: int = 3) -> object:
    """A copy with some values strange, some keys renamed, repeated or gone."""
    changed = json.loads(json.dumps(document))
    for _ in range(1 + chance.randrange(most)):
        place = changed
        while isinstance(place, (dict, list)) and place:
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], (dict, list)) or not place[key] or chance.random() < 0.15:
                _change(place, key, chance)
                break
            place = place[key]
    return changed


def _change(place, key, chance: random.Random) -> None:
    kind = chance.random()
    if kind < 0.75 or isinstance(place, list):
        place[key] = copy.deepcopy(chance.choice(STRANGE))
    elif kind < 0.9:
        place[chance.choice(("x", "target", "type", "params", "\x1b[2J"))] = place.pop(key)
    else:
        del place[key]


def yaml_document(chance: random.Random) -> bytes:
    family = chance.choice(list(DOCUMENTS))
    text = yaml.safe_dump(_changed(DOCUMENTS[family], chance), default_flow_style=chance.random() < 0.2)
    if chance.random() < 0.3:
        lines = text.splitlines()
        extra = (
            "a: &a {b: *a}",
            "<<: {x: 1}",
            "? [a]",
            "x: !!python/object/apply:os.system [ls]",
            "y: 1:59:59",
            "\t",
            "!!bool x",
            "- 1",
        )
        lines.insert(chance.randrange(len(lines) + 1), " " * chance.choice((0, 2, 4)) + chance.choice(extra))
        text = "\n".join(lines)
    return noise(text.encode(), chance) if chance.random() < 0.3 else text.encode()


_CONFIGS = {
    name: to_dict(get_config(name)) for name in ("rqvae", "rqtransformer", "dqvae", "dqtransformer", "classifier")
}


def config_json(chance: random.Random) -> bytes:
    text = json.dumps(_changed(_CONFIGS[chance.choice(list(_CONFIGS))], chance)).encode()
    return noise(text, chance) if chance.random() < 0.2 else text


# --- images


def _images() -> list[bytes]:
    ramp = np.arange(24 * 20 * 4).reshape(24, 20, 4).astype(np.uint8)
    found = []
    kinds = "png RGB,png P,png RGBA,png 1,jpeg RGB,jpeg CMYK,webp RGBA,bmp RGB,bmp 1,gif P,tiff RGB,eps RGB"
    for kind, mode in (pair.split() for pair in kinds.split(",")):
        file = io.BytesIO()
        image = Image.fromarray(ramp if mode in ("RGBA", "CMYK") else ramp[..., :3], "CMYK" if mode == "CMYK" else None)
        image.convert(mode).save(file, kind)
        found.append(file.getvalue())
    return found


_IMAGES = _images()


def image(chance: random.Random) -> bytes:
    """An image with noise, half of the time in its first bytes, which tell its size and its kind."""
    data = bytearray(chance.choice(_IMAGES))
    for _ in range(chance.randrange(3)):
        place, size = chance.randrange(min(len(data), 64)), chance.choice((1, 2, 4))
        data[place : place + size] = chance.choice((0, 1, 255, 2**16, 2**31 - 1, 10**6)).to_bytes(
            4, chance.choice(("big", "little"))
        )[-size:]
    return noise(bytes(data), chance)


FORMATS: dict[str, Callable[[random.Random], bytes]] = {
    **{"pickle_zip": pickle_zip, "pickle_legacy": pickle_legacy, "pickle_bare": pickle_bare, "zip": zip_headers},
    **{"tensors": tensors, "safetensors": safetensors, "yaml": yaml_document, "config": config_json, "image": image},
}
