"""Schemes: the preset names that users type, and the formats behind them."""

from __future__ import annotations

from qcore.formats import IntGroup

__all__ = ["SCHEMES", "resolve_scheme"]

# Weight-only integer schemes, e.g. W4A16 (symmetric) and W4A16_ASYM (with zero points).
SCHEMES: dict[str, IntGroup] = {
    f"W{bits}A16{suffix}": IntGroup(bits=bits, symmetric=not suffix)
    for bits in (2, 3, 4, 8)
    for suffix in ("", "_ASYM")
}


def resolve_scheme(scheme: str | IntGroup, group_size: int | None = None) -> IntGroup:
    """The format of a scheme's weights, by name or given directly; `group_size` overrides its own."""
    if isinstance(scheme, str):
        if scheme.upper() not in SCHEMES:
            raise ValueError(f"scheme: expected one of {', '.join(SCHEMES)}, got {scheme!r}")
        scheme = SCHEMES[scheme.upper()]
    if group_size is None:
        return scheme
    return IntGroup(scheme.bits, scheme.symmetric, group_size)
