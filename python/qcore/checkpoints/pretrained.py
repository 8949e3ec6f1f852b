"""`save_pretrained` and `push_to_hub` of models with quantized layers: the folder that `save` writes."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from functools import partial, wraps
from pathlib import Path
from typing import Any

from torch import nn

from qcore.checkpoints.saving import expect_savable, write_model
from qcore.nn import QEmbedding, QLinear

__all__ = ["SavePretrained", "save_as_quantized"]

# What another save left of weights, and the configuration that goes with them.
_OLD = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|config\.json")

# What transformers hands on to the hub.
_HUB = frozenset(
    ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags", "token")
)


def save_as_quantized(model: nn.Module) -> None:
    """Makes `save_pretrained` of a transformers model, of those inside it, and of whatever it is inside of,
    save their quantized layers. transformers itself would write the tensors that kernels read, which nobody
    could load."""
    base = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    if base is None:
        return
    for module in model.modules():
        if isinstance(module, base) and _quantized(module):
            module.save_pretrained = SavePretrained(module)
    _teach(base)


def _teach(base: Any) -> None:
    """The same for models that nobody here has seen: a classifier whose backbone alone was quantized does not
    know of it, and neither does the backbone know of the classifier."""
    theirs = base.save_pretrained
    if hasattr(theirs, "by_qcore"):
        return

    @wraps(theirs)
    def save_pretrained(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        (SavePretrained(self) if _ours(self) else partial(theirs, self))(*args, **kwargs)

    save_pretrained.by_qcore = True  # type: ignore[attr-defined]
    base.save_pretrained = save_pretrained


class SavePretrained:
    """What `model.save_pretrained` is: an object, so that a copy, or a pickle, of the model has its own."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Any = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        variant: str | None = None,
        token: str | bool | None = None,
        save_peft_format: bool = True,
        save_original_format: bool = True,
        distributed_checkpoint: bool = False,
        **kwargs: Any,
    ) -> None:
        """Saves the model as `qcore.save` does, into a folder that may be there: weights, config.json and
        generation settings are replaced, all else stays. Tokenizers are saved apart, as in transformers.

        Args:
            is_main_process: nothing is written if not.
            push_to_hub: upload the model too; the keyword arguments are those of `push_to_hub`.
            max_shard_size: the most bytes per safetensors file, about.

        Raises:
            ValueError: what quantized layers cannot be saved with: a `state_dict`, a `variant`, names other
                than the original ones, a distributed checkpoint; layers that no container can store.
        """
        model: Any = self.model
        if not _ours(model):
            type(model).save_pretrained(
                model, save_directory, is_main_process, state_dict, push_to_hub, max_shard_size, variant,
                token, save_peft_format, save_original_format, distributed_checkpoint, **kwargs,
            )  # fmt: skip
            return
        refused = {
            "state_dict": state_dict is not None,
            "variant": variant is not None,
            "save_original_format": not save_original_format,
            "distributed_checkpoint": distributed_checkpoint,
            "safe_serialization": not kwargs.pop("safe_serialization", True),
        }
        for name, given in refused.items():
            if given:
                raise ValueError(f"{name}: a model with quantized layers cannot be saved with it")
        if unknown := kwargs.keys() - _HUB:
            raise TypeError(f"save_pretrained: unexpected keyword argument {sorted(unknown)[0]!r}")
        shard_bytes = _bytes_of(max_shard_size)
        expect_savable(model)
        if not is_main_process:
            return
        _write(model, Path(save_directory), shard_bytes)
        if push_to_hub:
            repo = {"repo_id": Path(save_directory).resolve().name, "token": token, **kwargs}
            model.push_to_hub(max_shard_size=max_shard_size, **repo)


def _quantized(model: nn.Module) -> bool:
    return any(isinstance(module, (QLinear, QEmbedding)) for module in model.modules())


def _ours(model: nn.Module) -> bool:
    """Whether quantized layers are saved; of a model with adapters, those alone are."""
    return _quantized(model) and not getattr(model, "_hf_peft_config_loaded", False)


def _bytes_of(size: int | str) -> int:
    from transformers.utils.hub import convert_file_size_to_int

    try:
        count = int(convert_file_size_to_int(size))
    except (ValueError, AttributeError, TypeError):
        count = 0
    if count < 1:
        raise ValueError(f"max_shard_size: expected a number of bytes, or one as '5GB', got {size!r}")
    return count


def _write(model: nn.Module, folder: Path, shard_bytes: int) -> None:
    """Whatever fails while the files are written, the folder stays as it was."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"save_directory: expected a folder, {folder} is a file")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".saving.", dir=folder))
    try:
        write_model(model, part, shard_bytes)
        for file in folder.iterdir():  # the configuration goes first and comes last
            if _OLD.fullmatch(file.name):
                file.unlink()
        for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
            os.replace(file, folder / file.name)
        part.rmdir()
    except BaseException:
        shutil.rmtree(folder if made else part, ignore_errors=True)
        raise
