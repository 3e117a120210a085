"""The page on Python: its blocks run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"


def test_the_blocks_of_the_page_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 7
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number + 1}", "exec"), names)
    told = capsys.readouterr().out
    assert "cellfeatures__align" in told
    assert (tmp_path / "run-1" / "records.jsonl").is_file()
    assert names["predicted"].shape == (30,)
    assert (names["scores"] > 0.3).all(), "by chance it would be 0.2"
