"""Progress where standard error is no terminal."""

from __future__ import annotations

import re
import time

import pytest

import qcore
import tiny
from qcore import progress

LINE = re.compile(r"working: (\d) of 4 in 0:00:0\d(, about 0:00:0\d left)?")


def test_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Also while one item takes long; the last line says that all is done."""
    monkeypatch.setattr(progress, "INTERVAL", 0.1)
    for item in progress.track("abcd", "working"):
        time.sleep(0.5 if item == "b" else 0.02)
    lines = capsys.readouterr().err.splitlines()
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    assert len(lines) >= 3
    assert sum(line.startswith("working: 1 of 4") for line in lines) >= 2
    assert "about" in lines[0]
    assert lines[-1] == "working: 4 of 4 in 0:00:01"
    assert "\x1b" not in "".join(lines)


def test_what_is_soon_done_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track([1, 2, 3], "working")) == [1, 2, 3]
    assert list(progress.track([], "working")) == []
    assert capsys.readouterr().err == ""


def test_errors_end_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No line of a thing that failed pretends that it was done."""
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    items = progress.track(range(3), "working")
    next(items)
    time.sleep(0.12)
    items.close()  # as an error in the loop does
    before = capsys.readouterr().err
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
    assert "3 of 3" not in before


def test_quantizing_tells(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.001)
    qcore.quantize(tiny.make_model("llama"), "W4A16", "gptq", tiny.tokens(), group_size=32)
    assert "quantizing blocks: 2 of 2 in " in capsys.readouterr().err
