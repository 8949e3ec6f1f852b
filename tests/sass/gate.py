"""What the compiler made of the CUDA kernels: registers, spills and instructions, read from a binary.

`violations(kernels(binary), rules)` lists what breaks a rule, in words. Reading needs cuobjdump and nvdisasm
(from pip: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm) and c++filt.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TARGETS = ("sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a")


@dataclass
class Kernel:
    """One kernel compiled for one target."""

    name: str  # demangled
    target: str
    registers: int
    stack: int  # bytes of a thread's local memory: spilled registers, arrays indexed at run time
    shared: int  # bytes, static
    instructions: list[tuple[int, str]] = field(default_factory=list)  # address, text

    def count(self, pattern: str) -> int:
        return sum(1 for _, text in self.instructions if re.search(pattern, text))

    def loop_around(self, pattern: str) -> int:
        """Instructions in the smallest loop that holds all that match the pattern; 0: there is none."""
        inside = [address for address, text in self.instructions if re.search(pattern, text)]
        spans = [
            (int(target[1], 16), address)
            for address, text in self.instructions
            if (target := re.search(r"\bBRA(?:\.\w+)* (?:`\(|.*?)0x([0-9a-f]+)", text))
            and int(target[1], 16) <= address
        ]
        holding = [b - a for a, b in spans if inside and a <= inside[0] and inside[-1] <= b]
        return min(holding) // 16 + 1 if holding else 0


@dataclass(frozen=True)
class Rule:
    """What kernels whose name matches `name` must look like, on all targets that match `target`."""

    name: str
    target: str = ""
    registers: int = 255
    stack: int = 0
    shared: int = 1024  # bytes that newer targets reserve
    must: tuple[str, ...] = ()  # patterns of instructions
    must_not: tuple[str, ...] = ()
    loop: tuple[str, int] | None = None  # pattern, most instructions in the loop around it

    def broken_by(self, kernel: Kernel) -> Iterator[str]:
        for what in ("registers", "stack", "shared"):
            have, most = getattr(kernel, what), getattr(self, what)
            if have > most:
                yield f"{what}: {have}, at most {most}"
        for pattern in self.must:
            if not kernel.count(pattern):
                yield f"no instruction {pattern}"
        for pattern in self.must_not:
            if count := kernel.count(pattern):
                yield f"{count} instructions {pattern}"
        if self.loop:
            pattern, most = self.loop
            length = kernel.loop_around(pattern)
            if not 0 < length <= most:
                yield f"loop around {pattern}: {length} instructions, 1 to {most} wanted"


def tool(name: str) -> str | None:
    """The tool's path: on PATH, or where pip puts it."""
    if found := shutil.which(name):
        return found
    for folder in sys.path:
        for path in Path(folder).glob(f"nvidia/*/bin/{name}"):
            return str(path)
    return None


def missing_tools() -> list[str]:
    return [name for name in ("cuobjdump", "nvdisasm", "c++filt") if tool(name) is None]


def _run(name: str, *arguments: str, text: str | None = None) -> str:
    path, disassembler = tool(name), tool("nvdisasm")
    assert path, f"{name} is not installed"
    environment = os.environ | ({"NVDISASM_PATH": str(Path(disassembler).parent)} if disassembler else {})
    command = (path, *arguments)
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=True, env=environment
    ).stdout


def _demangle(names: Sequence[str]) -> dict[str, str]:
    plain = _run("c++filt", text="\n".join(names)).splitlines()
    return dict(zip(names, plain, strict=True))


def kernels(binary: Path) -> list[Kernel]:
    """Every kernel of every target in an object file or library."""
    found: dict[tuple[str, str], Kernel] = {}
    target = ""
    usage = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
    name = ""
    for line in _run("cuobjdump", "-res-usage", str(binary)).splitlines():
        if match := re.match(r"arch = (\w+)", line):
            target = match[1]
        elif match := re.match(r" Function (\w+):", line):
            name = match[1]
        elif match := usage.search(line):
            registers, stack, shared, local = map(int, match.groups())
            found[name, target] = Kernel(name, target, registers, stack + local, shared)
    for target in sorted({target for _, target in found}):
        code = _run("cuobjdump", "-sass", "-arch", target, str(binary))
        for part in code.split("Function : ")[1:]:
            name = part.split("\n", 1)[0].strip()
            found[name, target].instructions = [
                (int(address, 16), text.strip())
                for address, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+([^;]*);", part)
            ]
    plain = _demangle([name for name, _ in found])
    for kernel in found.values():
        kernel.name = plain[kernel.name]
    return list(found.values())


def ptx_targets(binary: Path) -> set[str]:
    """What other cards, of this generation and later ones, find to compile."""
    return set(re.findall(r"PTX file.*\.(sm_\w+)\.ptx", _run("cuobjdump", "-lptx", str(binary))))


def violations(found: Sequence[Kernel], rules: Sequence[Rule]) -> list[str]:
    """One line for each rule that a kernel breaks, and for each rule that meets no kernel."""
    lines = []
    met: set[Rule] = set()
    for kernel in found:
        for rule in rules:
            if re.search(rule.name, kernel.name) and re.search(rule.target, kernel.target):
                met.add(rule)
                lines += [f"{kernel.target} {kernel.name}: {what}" for what in rule.broken_by(kernel)]
    lines += [f"no kernel matches {rule.name} on {rule.target}" for rule in rules if rule not in met]
    return lines
