"""Elements: what a code of a weight, or of an input, stands for before its scale. A new one is a line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

__all__ = ["ELEMENTS", "Codebook", "Elements", "Floats", "Integers"]

# A search shrinks the range of integers and codebooks in these steps: beyond them nothing was ever best.
_SHRINKS = tuple(torch.linspace(1.0, 0.36, 24).tolist()[1:])
# Floats keep their precision under any scale but for where its steps fall: the search tries scales over an
# octave (beyond it the same steps come again) and some that clip.
_OCTAVE = tuple(2.0 ** (step / 16) for step in range(-3, 17))


@dataclass(frozen=True)
class Elements(ABC):
    """The numbers that codes stand for: `weight = scale * (element - zero)`.

    Between methods and formats codes are `patterns`: uint8, whatever they are stored in.

    Attributes:
        name: in the field's short form: u4, s8, e4m3, nf4.
        bits: of a code.
        dtype: in which a `QWeight` keeps codes.
    """

    name: str
    bits: int
    dtype: torch.dtype

    shrinks = _SHRINKS
    """Fractions of the plain scale that a range search tries."""
    refits = 3
    """How often it then fits the scale to the codes by least squares."""

    @property
    def label(self) -> str:
        """As people write it: int4, e4m3."""
        return self.name

    @property
    def affine(self) -> bool:
        """Whether there may be zero points."""
        return False

    @property
    def zero(self) -> float:
        """The zero point where none is stored."""
        return 0.0

    @property
    @abstractmethod
    def greatest(self) -> float:
        """The element that the largest magnitude becomes, by the plain rule."""

    @abstractmethod
    def nearest(self, w: Tensor, scale: Tensor, zero: Tensor | float) -> Tensor:
        """What is nearest to w under a scale and a zero point: the one rounding rule, used by every path.
        In whatever form `pattern` and `value` take."""

    @abstractmethod
    def pattern(self, found: Tensor) -> Tensor:
        """The codes, uint8, of what `nearest` found."""

    @abstractmethod
    def value(self, found: Tensor, zero: Tensor | float) -> Tensor:
        """The elements less their zero, float32; may overwrite `found`."""

    @abstractmethod
    def inside(self, quotient: Tensor, zero: Tensor | float) -> Tensor:
        """Where w / scale is not beyond the elements, so that `nearest` does not clamp it."""

    def stored(self, pattern: Tensor) -> Tensor:
        """Codes in `dtype`."""
        return pattern.view(self.dtype)

    @abstractmethod
    def decode(self, codes: Tensor, zero: Tensor | float) -> Tensor:
        """The elements of stored codes less their zero, float32."""

    @property
    def count(self) -> int:
        """How many codes there are."""
        return 1 << self.bits

    def check(self, codes: Tensor) -> None:
        """Raises, naming them, if codes are not of this kind."""
        if codes.dtype != self.dtype:
            name = str(self.dtype).removeprefix("torch.")
            raise TypeError(f"codes: expected {name}, got {codes.dtype}")
        # Without data (meta, fake) there is nothing to look at.
        if self.count < 1 << (8 * codes.itemsize) and type(codes) is Tensor and not codes.is_meta:
            greatest = int(codes.max()) if codes.numel() else 0
            if greatest >= self.count:
                raise ValueError(f"codes: expected below {self.count}, got {greatest}")


@dataclass(frozen=True)
class Integers(Elements):
    """Integers from 0 to 2**bits - 1, with a zero point, by default the middle.

    Attributes:
        offset: what is subtracted of a code where it is stored: 128 for int8.
    """

    offset: int = 0

    @property
    def label(self) -> str:
        return f"int{self.bits}"

    @property
    def affine(self) -> bool:
        return self.offset == 0

    @property
    def zero(self) -> float:
        return float(1 << (self.bits - 1))

    @property
    def greatest(self) -> float:
        # The positive end is clipped by half a step, and the grid is finer than with zero - 1 by more than
        # that costs.
        return self.zero - 0.5

    def nearest(self, w: Tensor, scale: Tensor, zero: Tensor | float) -> Tensor:
        return (w / scale).round_().add_(zero).clamp_(0, self.count - 1)

    def pattern(self, found: Tensor) -> Tensor:
        return found.to(torch.uint8)

    def value(self, found: Tensor, zero: Tensor | float) -> Tensor:
        return found.sub_(zero)

    def inside(self, quotient: Tensor, zero: Tensor | float) -> Tensor:
        code = quotient.round() + zero
        return (code >= 0) & (code < self.count)

    def stored(self, pattern: Tensor) -> Tensor:
        return (pattern ^ self.offset).view(self.dtype) if self.offset else pattern

    def decode(self, codes: Tensor, zero: Tensor | float) -> Tensor:
        return codes.float().sub_(zero - self.offset)


@dataclass(frozen=True)
class Floats(Elements):
    """Floats of 8 bits, rounded as torch casts: to nearest, ties to even; what is too large saturates."""

    shrinks = _OCTAVE
    refits = 0

    @property
    def greatest(self) -> float:
        return torch.finfo(self.dtype).max

    def nearest(self, w: Tensor, scale: Tensor, zero: Tensor | float) -> Tensor:
        # Clamped first, because torch casts what is above the largest number to NaN or infinity.
        return (w / scale).clamp_(-self.greatest, self.greatest).to(self.dtype)

    def pattern(self, found: Tensor) -> Tensor:
        return found.view(torch.uint8)

    def value(self, found: Tensor, zero: Tensor | float) -> Tensor:
        return found.float()

    def inside(self, quotient: Tensor, zero: Tensor | float) -> Tensor:
        return quotient.abs() <= self.greatest

    def decode(self, codes: Tensor, zero: Tensor | float) -> Tensor:
        return codes.float()


@dataclass(frozen=True)
class Codebook(Elements):
    """A table of numbers, one for each code, in any order; a number that occurs twice counts once.

    Attributes:
        numbers: by code, as float32 has them.
    """

    numbers: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        return len(self.numbers)

    @cached_property
    def greatest(self) -> float:
        return max(map(abs, self.numbers))

    def nearest(self, w: Tensor, scale: Tensor, zero: Tensor | float) -> Tensor:
        return torch.bucketize(w / scale, _sorted(self, w.device)[2])

    def pattern(self, found: Tensor) -> Tensor:
        return _sorted(self, found.device)[1][found]

    def value(self, found: Tensor, zero: Tensor | float) -> Tensor:
        return _sorted(self, found.device)[0][found]

    def inside(self, quotient: Tensor, zero: Tensor | float) -> Tensor:
        return (quotient >= min(self.numbers)) & (quotient <= max(self.numbers))

    def ascending(self, device: torch.device) -> Tensor:
        """The numbers, float32, each once."""
        return _sorted(self, device)[0]

    def decode(self, codes: Tensor, zero: Tensor | float) -> Tensor:
        table = torch.tensor(self.numbers, dtype=torch.float32, device=codes.device)
        return table[codes.int()]


@lru_cache
def _sorted(elements: Codebook, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers in ascending order, float32; the code of each, uint8; and the borders between them."""
    codes: dict[float, int] = {}
    for code, number in enumerate(elements.numbers):
        codes.setdefault(number, code)  # 0 before -0
    numbers = torch.tensor(sorted(codes), dtype=torch.float32, device=device)
    of = torch.tensor([codes[n] for n in sorted(codes)], dtype=torch.uint8, device=device)
    return numbers, of, (numbers[1:] + numbers[:-1]) / 2


# Quantiles of the normal distribution, QLoRA's 4-bit NormalFloat (Dettmers, Pagnoni, Holtzman, Zettlemoyer,
# 2023), in the digits of bitsandbytes.
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023,
    1.0,
)  # fmt: skip
# OCP's 4-bit float: a sign, two bits of exponent, one of mantissa.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# The 4-bit float of bitsandbytes: six times these are 0, 1/32, 4, 6, 2, 3, 1, 1.5, as float32 has them.
_FP4 = (
    0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25,
)  # fmt: skip

ELEMENTS: dict[str, Elements] = {
    elements.name: elements
    for elements in (
        *(Integers(f"u{bits}", bits, torch.uint8) for bits in (2, 3, 4, 8)),
        Integers("s8", 8, torch.int8, offset=128),
        Floats("e4m3", 8, torch.float8_e4m3fn),
        Floats("e5m2", 8, torch.float8_e5m2),
        Codebook("e2m1", 4, torch.uint8, numbers=(*_E2M1, *(-number for number in _E2M1))),
        Codebook("nf4", 4, torch.uint8, numbers=_NF4),
        Codebook("fp4", 4, torch.uint8, numbers=(*_FP4, *(-number for number in _FP4))),
        Codebook("ternary", 2, torch.uint8, numbers=(-1.0, 0.0, 1.0)),
    )
}
