"""`general.name` of a GGUF file: what the model is called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["model_name"]


def model_name(folder: Path, config: Mapping[str, Any]) -> str:
    """What a model is called, by the first that knows: the metadata of its model card; the hub's cache, where
    the folder itself is named after a commit; the folder's name; what config.json says it was made from.

    Args:
        config: config.json.
    """
    path = folder.resolve()
    candidates = (_of_card(path / "README.md"), _in_cache(path), path.name, config.get("_name_or_path"))
    return next(_readable(candidates), "model")


def _readable(names: Iterable[Any]) -> Iterator[str]:
    for name in names:
        text = name.strip() if isinstance(name, str) else ""
        text = text.rstrip("/").rpartition("/")[2] if " " not in text else text
        text = text.encode("utf-8", "replace").decode("utf-8")  # names of files may be no text
        if text and not re.fullmatch("[0-9a-f]{40}", text):
            yield text


def _of_card(card: Path) -> Any:
    from huggingface_hub import metadata_load

    try:
        found = metadata_load(card) if card.is_file() else None
    except Exception:  # of YAML; a card is prose, and may be anything
        return None
    found = found if isinstance(found, dict) else {}
    return found.get("model_name") or found.get("name")


def _in_cache(path: Path) -> str | None:
    """`.../models--ORG--NAME/snapshots/COMMIT`, as huggingface_hub lays out what it downloads."""
    owner = path.parent.parent.name
    if path.parent.name != "snapshots" or not owner.startswith("models--"):
        return None
    return owner.removeprefix("models--").rpartition("--")[2]
