"""What the fuzzers share: numbers that hurt, and the loop that feeds damaged models to what reads them."""

from __future__ import annotations

import argparse
import random
import re
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from transformers.utils import logging

Case = TypeVar("Case")

# A reader that believes a length takes gigabytes at once; an honest one, a few times its file of 100 kB. Some
# of this goes to modules that are imported on the way.
MEMORY = 3 << 30
SECONDS_PER_CASE = 5.0
SMALL = [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 31, 32, 33, 255, 256, 1 << 16]
EDGES = [
    *SMALL,
    *((1 << bits) + d for bits in (31, 32, 62, 63) for d in (-31, -1, 0, 1)),
    (1 << 64) - 31,
    (1 << 64) - 1,
]


def attempt(read: Callable[[Path], object], path: Path) -> str:
    """ "loaded" or "refused": by a ValueError or FileNotFoundError that names the path, and nothing else."""
    try:
        read(path)
    except (ValueError, FileNotFoundError) as error:
        if str(path) not in str(error):
            raise AssertionError(f"the message does not name {path}: {error}") from error
        return "refused"
    return "loaded"


def fuzz(
    doc: str | None,
    name: str,
    seeds: Callable[[Path], list[Case]],
    damage: Callable[[Case, random.Random], Case],
    write: Callable[[Case, Path], None],
    read: Callable[[Path], str],
) -> int:
    """Runs until the time is up; 1 if a case was not refused as it should be, which is then kept."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--first", type=int, default=0, help="the first case to try: those before are made only"
    )
    parser.add_argument("--cases", type=int, default=1 << 60, help="the most cases")
    parser.add_argument("--go-on", action="store_true", help="count kinds of failures instead of stopping")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "qcore-fuzz")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # transformers doubts some configurations
    outcomes: Counter[str] = Counter()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = seeds(Path(folder))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        path = Path(folder) / name
        end, case = time.monotonic() + options.seconds, -1
        while time.monotonic() < end and case + 1 < options.cases:
            case += 1
            damaged = damage(chance.choice(whole), chance)
            if case < options.first:
                continue
            write(damaged, path)
            start = time.process_time()
            try:
                outcomes[read(path)] += 1
                seconds = time.process_time() - start
                assert seconds < SECONDS_PER_CASE, f"took {seconds:.1f} s"
            except BaseException as error:
                kept = options.keep / f"{options.seed}-{case}-{name}"
                kept.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    shutil.copytree(path, kept, dirs_exist_ok=True)
                else:
                    shutil.copyfile(path, kept)
                failures += 1
                kind = re.sub(r"[0-9]+|0x[0-9a-f]+|'[^']*'", "_", repr(error).replace(folder, ""))
                ours = [f for f in traceback.extract_tb(error.__traceback__) if "/qcore/" in f.filename]
                where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
                outcomes[f"FAILED {where}: {kind:.150}"] += 1
                if not options.go_on:
                    traceback.print_exc()
                    print(f"seed {options.seed}, case {case}: kept as {kept}", flush=True)
                    return 1
    print(
        f"seed {options.seed}: {outcomes.total()} cases; "
        + "; ".join(f"{n} {k}" for k, n in outcomes.items())
    )
    return 1 if failures else 0
