"""Files of texts and chats: what kind one is, by its name and by what is in it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["read_file", "read_texts"]

_TABLES = {".csv": ",", ".tsv": "\t"}
_JSON = (".json", ".jsonl", ".ndjson")
_TEXTS = (".txt", ".text", ".md", ".rst", ".raw", ".tokens")
_OTHERS = (".parquet", ".arrow", ".gz", ".zst", ".bz2", ".xz", ".zip", ".tar", ".pdf", ".docx")


def read_file(path: str | os.PathLike[str], name: str = "calibration") -> str | list[Any]:
    """One text, or the rows of a file of JSON lines, of one JSON list, or of a table.

    A file of JSON is known by what is in it, whatever it is called.

    Args:
        name: what the file is for, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the name of a data set, which nothing here downloads; what is no UTF-8 text; lines of
            which only some are JSON.
    """
    path = Path(path)
    _expect_file(path, name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a UTF-8 text: {error}") from error
    if not text.strip():
        raise ValueError(f"{path}: is empty")
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        try:
            return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=_TABLES[suffix]))
        except csv.Error as error:
            raise ValueError(f"{path}: {error}") from error
    rows = _json_rows(path, text, suffix in _JSON)
    return text if rows is None else rows


def read_texts(path: str | os.PathLike[str], name: str = "calibration") -> list[Any]:
    """The rows of a file, or the lines of one text that are not blank; see `read_file`."""
    found = read_file(path, name)
    return [line for line in found.split("\n") if line.strip()] if isinstance(found, str) else found


def _expect_file(path: Path, name: str) -> None:
    suffix = path.suffix.lower()
    if path.is_dir():
        raise ValueError(
            f"{path}: is a folder, expected a file of texts or chats; a data set that was saved there: pass "
            f"load_from_disk({str(path)!r}) of the package datasets to qcore.quantize, or write it with "
            f".to_json('{name}.jsonl') and give that file"
        )
    if path.is_file():
        if suffix in _OTHERS:
            raise ValueError(
                f"{path}: {suffix} files are not read; give a UTF-8 text, or JSON lines (of a data set: "
                f".to_json('{name}.jsonl'))"
            )
        return
    if path.exists():
        raise ValueError(f"{path}: expected a file of texts or chats")
    if path.is_absolute() or suffix in (*_TABLES, *_JSON, *_TEXTS, *_OTHERS) or len(path.parts) > 2:
        raise FileNotFoundError(f"{path}: no such file")
    raise ValueError(
        f"{name}: {path}: no such file. If it is the name of a data set: nothing is downloaded here. Where "
        f"there is a network, load_dataset({str(path)!r}, split='train') of the package datasets gives its "
        f"rows; pass them to qcore.quantize, or write them with .to_json('{name}.jsonl') and give that file. "
        f"(A text itself is given in a list.)"
    )


def _json_rows(path: Path, text: str, expected: bool) -> list[Any] | None:
    """The rows of JSON; None for a text that is something else."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    begin = text.lstrip()[0]
    if not expected and begin not in "[{":
        return None
    if begin == "[" or len(lines) == 1 or not _is_json(lines[0][1]):  # one value, over many lines maybe
        whole = _parsed(text)
        if isinstance(whole, list):
            return whole if _is_rows(whole) or expected else None
        if isinstance(whole, dict):
            return [whole]
    found = [_parsed(line) for _, line in lines]
    rows = (dict, list, str) if expected else (dict, list)
    good = sum(isinstance(row, rows) for row in found)
    if good == len(found):
        return found
    if not expected and 2 * good < len(found):
        return None  # a text with something in braces
    number, line = next(lines[i] for i, row in enumerate(found) if not isinstance(row, rows))
    raise ValueError(
        f"{path}: line {number}: expected a JSON object, as in other lines, got {line.strip()[:60]!r}"
    )


_NOTHING: Any = object()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOTHING


def _is_json(line: str) -> bool:
    return _parsed(line) is not _NOTHING


def _is_rows(values: list[Any]) -> bool:
    kinds: tuple[Callable[[Any], bool], ...] = (
        lambda v: isinstance(v, dict),
        lambda v: isinstance(v, str),
        lambda v: isinstance(v, list),
    )
    return bool(values) and any(all(kind(value) for value in values) for kind in kinds)
