"""What a GGUF file calls its model."""

from __future__ import annotations

from pathlib import Path

import pytest

import qcore
from gguf_cases import byte_level, make, save, wrap
from qcore.checkpoints.gguf import GgufFile
from qcore.checkpoints.gguf.general import model_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("folder", "card", "config", "expected"),
    [
        ("plain-7b", None, {}, "plain-7b"),
        ("plain-7b", None, {"_name_or_path": "other/base"}, "plain-7b"),
        (f"models--org--Small-7B-it/snapshots/{COMMIT}", None, {}, "Small-7B-it"),
        (f"models--no-organization/snapshots/{COMMIT}", None, {}, "no-organization"),
        (f"models--org--a--b/snapshots/{COMMIT}", None, {}, "b"),
        (COMMIT, None, {"_name_or_path": "org/Base-1B"}, "Base-1B"),
        (COMMIT, None, {"_name_or_path": f"/cache/models--o--n/snapshots/{COMMIT}"}, "model"),
        (COMMIT, None, {"_name_or_path": 3}, "model"),
        (COMMIT, None, {}, "model"),
        ("folder", "---\nmodel_name: Fine Tuned 3B\n---\n# Words", {}, "Fine Tuned 3B"),
        ("folder", "---\nname: org/tuned\n---\n", {}, "tuned"),
        ("folder", "---\nname: [1, 2]\n---\n", {}, "folder"),
        ("folder", "---\nmodel_name: {a: b\n---\n", {}, "folder"),
        ("folder", "# No metadata\n", {}, "folder"),
        ("folder", "---\n- a list\n---\n", {}, "folder"),
        (f"models--org--cached/snapshots/{COMMIT}", "---\nlicense: mit\n---\n", {}, "cached"),
        ("modèle-日本", None, {}, "modèle-日本"),
        ("no-text-\udcff", None, {}, "no-text-?"),
    ],
)
def test_names(
    tmp_path: Path, folder: str, card: str | None, config: dict[str, object], expected: str
) -> None:
    path = tmp_path / folder
    path.mkdir(parents=True)
    if card is not None:
        (path / "README.md").write_text(card)
    assert model_name(path, config) == expected


def test_a_folder_of_the_hubs_cache(tmp_path: Path) -> None:
    """Its files are links to where the cache keeps them."""
    cached = tmp_path / "models--org--tiny-llama" / "snapshots" / COMMIT
    made = save(make("llama", vocab_size=320), tmp_path / "made", wrap(byte_level(None, 300)))
    cached.mkdir(parents=True)
    for file in made.iterdir():
        blob = tmp_path / "models--org--tiny-llama" / "blobs" / f"{file.name}-blob"
        blob.parent.mkdir(exist_ok=True)
        file.rename(blob)
        (cached / file.name).symlink_to(blob)
    qcore.quantize_gguf(cached, tmp_path / "out.gguf", "Q8_0", "rtn")
    assert GgufFile(tmp_path / "out.gguf").metadata["general.name"] == "tiny-llama"
