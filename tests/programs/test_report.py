import re

import numpy as np

from rqjax.data.images import write_png
from rqjax.programs.report import write_report


def test_page_needs_no_other_file(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    lines = [{"step": s, "loss": 1 / s, "usage_1": 0.5, "usage_2": 0.25, "broken": None} for s in (1, 2, 3)]
    summary = {"seconds": {"total": 1.25}, "<script>": [0.5, 2]}
    write_report(
        tmp_path / "report.html", "A & B", runs={"run": lines}, pictures={"cap<>": tmp_path / "a.png"}, summary=summary
    )
    page = (tmp_path / "report.html").read_text()
    assert len(re.findall(r'src="data:image/png;base64,[A-Za-z0-9+/]+=*"', page)) == 2
    assert not re.findall(r'(src|href)="(?!data:)', page)
    assert "A &amp; B" in page
    assert "<script>" not in page
    assert "1.25" in page
