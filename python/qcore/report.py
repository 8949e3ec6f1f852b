"""What quantizing a model left out, for whoever asked for it: nothing of this is told by a warning alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["VECTOR", "LeftOut", "QuantizationReport"]

VECTOR = "a vector"
# A smaller share of the parameters that is quantized is worth a warning.
_EXPECTED = 0.9
# A larger share of the file that embedding and head take is worth a hint.
_MANY = 0.2


@dataclass(frozen=True)
class LeftOut:
    """Parameters that are not quantized, and why.

    Attributes:
        asked: whoever quantized named them, or left them out by the scheme.
    """

    parameters: int
    reason: str
    asked: bool = False


@dataclass
class QuantizationReport:
    """What became of the layers of a model; `model.qcore_report` after `qcore.quantize`.

    Attributes:
        calibration: what the calibration data was, where it was not token ids already, and how much of it.
        not_called: linear layers that the model never calls but whose weights it reads (the `dt_proj` of
            Mamba). They stay as they were.
        without_tokens: layers that no token of the calibration data reached, e.g. experts that no token was
            sent to. They are rounded to nearest.
        padding_counted: layers of which could not be told which rows are padding; all of their rows were
            counted.
        formats: how many layers, or matrices of a GGUF file, are stored in which format.
        narrowed: layers whose rows the format that was asked for does not fit, by what was taken instead:
            "int4 g64 sym instead of int4 g128 sym".
        notes: what else whoever uses the result should know.
        ends: how much of a folder's bytes are an embedding and a head that are not quantized.
        quantized: parameters in quantized weights, embeddings and the head not counted.
        left_out: all others, embeddings and the head not counted, by the name of their module or, where it
            has several, parameter.
        unsavable: why no folder can store what was chosen for a model in memory; "" if one can.
    """

    calibration: str = ""
    not_called: list[str] = field(default_factory=list)
    without_tokens: list[str] = field(default_factory=list)
    padding_counted: list[str] = field(default_factory=list)
    formats: dict[str, int] = field(default_factory=dict)
    narrowed: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ends: float = 0.0
    quantized: int = 0
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    unsavable: str = ""

    @property
    def share(self) -> float:
        """Of the parameters that could have been quantized: without embeddings, the head, and what was left
        out on request."""
        missed = sum(left.parameters for left in self.left_out.values() if not left.asked)
        return self.quantized / max(self.quantized + missed, 1)

    def choose(self, name: str, asked: str, got: str, parameters: int = 0) -> None:
        """A layer, or matrix, that will be stored in the format `got`.

        Args:
            parameters: that count for the share.
        """
        self.quantized += parameters
        self.formats[got] = self.formats.get(got, 0) + 1
        if got != asked:
            self.narrowed.setdefault(f"{got} instead of {asked}", []).append(name)

    @property
    def warning(self) -> str | None:
        """What should not be missed: most of the model may have stayed as it was."""
        missed = {name: left for name, left in self.left_out.items() if not left.asked}
        if self.share >= _EXPECTED or all(left.reason == VECTOR for left in missed.values()):
            return None
        largest = "; ".join(self._largest(4, missed.items()))
        return (
            f"only {self.share:.1%} of the parameters besides embeddings and head are quantized; the largest "
            f"left out: {largest}"
        )

    def lines(self) -> list[str]:
        """What was chosen and what was left, for people."""
        chosen = ", ".join(f"{count} x {name}" for name, count in _descending(self.formats))
        lines = [f"{chosen}; {self.share:.1%} of the parameters besides embeddings and head are quantized"]
        lines += [f"{what}: {_some(names)}" for what, names in self.narrowed.items()]
        if self.calibration:
            lines.append(f"calibrated on {self.calibration}")
        vectors = {name for name, left in self.left_out.items() if left.reason == VECTOR}
        if others := [(name, left) for name, left in self.left_out.items() if name not in vectors]:
            lines.append("not quantized: " + "; ".join(self._largest(6, others)))
        if self.unsavable:
            lines.append(f"qcore.save will refuse it: {self.unsavable}")
        for what, names in (
            ("never called, left as they are", self.not_called),
            ("reached by no calibration token, rounded to nearest", self.without_tokens),
            ("calibrated with padding", self.padding_counted),
        ):
            if names:
                lines.append(f"{what}: {_some(names)}")
        if self.ends > _MANY:
            lines.append(
                f"embedding and head are {self.ends:.0%} of the file; --quantize-embeddings 8 and "
                f"--quantize-head 8 (or 4) make them smaller"
            )
        return lines + self.notes

    def _largest(self, most: int, items: Iterable[tuple[str, LeftOut]]) -> list[str]:
        """The same parts of all blocks are one entry."""
        alike: dict[tuple[str, str], list[int]] = {}
        for name, left in items:
            alike.setdefault((_pattern(name), left.reason), []).append(left.parameters)
        ordered = sorted(alike.items(), key=lambda item: -sum(item[1]))
        texts = [
            f"{len(sizes)} x {name} ({sum(sizes):,} parameters: {reason})"
            for (name, reason), sizes in ordered[:most]
        ]
        if len(ordered) > most:
            rest = sum(sum(sizes) for _, sizes in ordered[most:])
            texts.append(f"and {rest:,} parameters more")
        return texts


def _descending(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def _pattern(name: str) -> str:
    """A name without the numbers of blocks and experts."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name)


def _some(names: list[str]) -> str:
    """Layers by kind, with how many there are."""
    counts: dict[str, int] = {}
    for name in names:
        counts[_pattern(name)] = counts.get(_pattern(name), 0) + 1
    return ", ".join(f"{count} x {name}" for name, count in _descending(counts))
