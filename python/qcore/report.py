"""What quantizing a model left out, for whoever asked for it: nothing of this is told by a warning alone."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["QuantizationReport"]


@dataclass
class QuantizationReport:
    """What became of the layers of a model; `model.qcore_report` after `qcore.quantize`.

    Attributes:
        not_called: linear layers that the model never calls but whose weights it reads (the `dt_proj` of
            Mamba). They stay as they were.
        without_tokens: layers that no token of the calibration data reached, e.g. experts that no token was
            sent to. They are rounded to nearest.
        padding_counted: layers of which could not be told which rows are padding; all of their rows were
            counted.
    """

    not_called: list[str] = field(default_factory=list)
    without_tokens: list[str] = field(default_factory=list)
    padding_counted: list[str] = field(default_factory=list)
