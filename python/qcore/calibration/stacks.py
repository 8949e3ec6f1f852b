"""Which parts of a model are worked on one after another: its repeated blocks, and layers beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

__all__ = ["candidates", "find_blocks", "inside", "wider"]


def find_blocks(model: nn.Module, targets: Iterable[str]) -> list[str]:
    """Names of the model's repeated blocks: the children of the module list that holds most targets."""
    best: list[str] = []
    most = 0
    names = list(targets)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 0:
            held = sum(target.startswith(name + ".") for target in names)
            if held > most:
                most = held
                best = [f"{name}.{child}" for child, _ in module.named_children()]
    return best


def candidates(model: nn.Module, targets: Iterable[str]) -> list[str]:
    """Names of the blocks that hold targets, of every stack (encoder, decoder, vision tower), and of the
    targets outside of them; of the whole model, "", where it has no blocks."""
    names = list(targets)

    def walk(name: str, module: nn.Module, listed: bool) -> Iterator[str]:
        if listed and not isinstance(module, nn.ModuleList):
            if any(inside(target, name) and target != name for target in names):
                yield name
            return
        for child, part in module.named_children():
            yield from walk(f"{name}.{child}" if name else child, part, isinstance(module, nn.ModuleList))

    blocks = list(walk("", model, False))
    if not blocks:
        return [""]
    return blocks + [name for name in names if not any(inside(name, block) for block in blocks)]


def inside(name: str, prefix: str) -> bool:
    """Whether a module's name is the prefix or under it."""
    return not prefix or name == prefix or name.startswith(prefix + ".")


def wider(model: nn.Module, name: str) -> str:
    """The next module around this one that is called, and not only a list of others."""
    name = name.rpartition(".")[0]
    while name and isinstance(model.get_submodule(name), (nn.ModuleList, nn.ModuleDict)):
        name = name.rpartition(".")[0]
    return name
