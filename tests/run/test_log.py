import json
import random

import numpy as np

from rqjax.run.log import FILE, Log, read_metrics


def test_lines_survive_a_restart_without_doubles(tmp_path, capsys):
    log = Log(tmp_path, start=0, steps=10, images_per_step=4)
    for step in (2, 4, 6):
        log.scalars(step, {"loss": np.float32(step), "usage_1": 0.5})
    log.images(6, {"samples": np.zeros((3, 8, 8, 3), np.uint8)})
    log.close()
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 8, "lo')  # the run was cut off in mid-line
    log = Log(tmp_path, start=4, steps=10, images_per_step=4)
    log.scalars(6, {"loss": float("nan")})
    log.close()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[1]["loss"] == 4.0
    assert lines[1]["usage_1"] == 0.5
    assert lines[2]["loss"] is None
    assert all(line["images_per_second"] > 0 for line in lines)
    assert all(json.loads(json.dumps(line, allow_nan=False)) for line in lines)
    out = capsys.readouterr().out
    assert "step  4/10  loss 4" in out
    assert "images/s" in out
    assert list((tmp_path / "tensorboard").iterdir())


DAMAGED = [
    b'{"step": 2, "lo',
    b"\xff\xfe\x00{",
    b"[1, 2]",
    b'{"loss": 1.0}',
    b'{"step": "2", "loss": 1.0}',
    b'{"step": true}',
    b'{"step": 2, "loss": "high"}',
    b'{"step": 2, "loss": [1.0]}',
    b'{"step": 2, "loss": 1e999}',
    b"[" * 100_000,
    b"1" * 5000,
    b"null",
    b"",
]


def test_no_bytes_stop_a_resumption_or_a_reader(tmp_path):
    whole = [b'{"step": 1, "loss": 3.0}', b'{"step": 2, "loss": NaN}', b'{"step": 3, "loss": 1}']
    content = b"\r\n".join([whole[2], *DAMAGED, whole[0], *DAMAGED, whole[1], *DAMAGED])
    (tmp_path / FILE).write_bytes(content)
    expected = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 1}]
    assert read_metrics(tmp_path) == expected
    Log(tmp_path, start=2, steps=10, images_per_step=4).close()
    assert read_metrics(tmp_path) == expected[:2]
    chance = random.Random(0)
    for _ in range(200):
        (tmp_path / FILE).write_bytes(chance.randbytes(chance.randrange(200)) + b"\n" + whole[0])
        assert expected[0] in read_metrics(tmp_path)
