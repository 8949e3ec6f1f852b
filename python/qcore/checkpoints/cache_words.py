"""What a checkpoint says of a quantized key-value cache, which the models of qcore do not have yet."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["unused_of_cache"]

_FIELDS = ("kv_cache_scheme", "kv_cache_quant_algo")
# Last parts of keys, of an attention or of its projections.
_SCALES = frozenset(
    f"{which}_{part}" for which in ("q", "k", "v", "kv", "prob", "output") for part in ("scale", "zero_point")
)


def unused_of_cache(config: Mapping[str, Any], keys: Iterable[str], where: str) -> set[str]:
    """Those of a checkpoint's keys that are scales of its key-value cache; that they change nothing is said.

    Args:
        config: its `quantization_config`; only if that speaks of a cache there are any.
        where: the checkpoint.
    """
    field = next((field for field in _FIELDS if config.get(field)), None)
    if field is None:
        return set()
    found = {key for key in keys if key.rpartition(".")[2] in _SCALES}
    warnings.warn(
        f"{where}: quantization_config.{field}: the key-value cache is not quantized; its {len(found)} "
        f"scales in the checkpoint are not used",
        stacklevel=6,
    )
    return found
