import json

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
