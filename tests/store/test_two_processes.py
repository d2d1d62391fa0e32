"""A checkpoint of two processes: its digests are compared by both together, on another mesh."""

import json

import pytest

from rqjax.store.digests import ITEM
from tests.two_processes import lines_of

PROCESS = """
import os, sys
from rqjax.run import hosts
hosts.join()
import jax, numpy as np
from types import SimpleNamespace
from rqjax import mesh
from rqjax.errors import InputError
from rqjax.store import stored
from rqjax.store.checkpoint import Checkpoints

array, place = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32), sys.argv[1]

def where(shape, *axes):
    return jax.NamedSharding(mesh.make_mesh(shape), jax.P(*axes))

if sys.argv[2] == "save":
    whole, split = (jax.make_array_from_callback(array.shape, where("4x1", *axes), lambda i: array[i])
                    for axes in ((), ("data",)))
    with Checkpoints(place, every=1, keep=1) as saves:
        saves.save(1, SimpleNamespace(model={"split": split, "whole": whole}), {})
else:
    like = {name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=where("2x2", *axes))
            for name, axes in (("split", ("model", "data")), ("whole", ()))}
    try:
        found = stored.find(place).item("model", like)
        for shard in (shard for x in found.values() for shard in x.addressable_shards):
            np.testing.assert_array_equal(shard.data, array[shard.index])
        print("equal")
    except InputError as error:
        print(error)
sys.stdout.flush()
jax.distributed.shutdown()
"""


def together(tmp_path, word):
    """The last line of each of two processes."""
    ended = lines_of(PROCESS, str(tmp_path / "run"), word, timeout=120)
    return [(lines or [""])[-1] for lines in ended]


@pytest.mark.slow
def test_two_processes_compare_what_they_hold_together_on_another_mesh(tmp_path):
    together(tmp_path, "save")
    digests = tmp_path / "run" / "checkpoints" / "1" / ITEM
    assert (digests / "1.json").is_file()
    assert together(tmp_path, "restore") == ["equal", "equal"]
    part = json.loads((digests / "1.json").read_text())
    part["arrays"]["model/split"] ^= 4
    (digests / "1.json").write_text(json.dumps(part))
    for line in together(tmp_path, "restore"):
        assert "the array model/split is not as it was saved" in line
