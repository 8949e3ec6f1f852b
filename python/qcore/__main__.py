"""The `qcore` command: `python -m qcore` as well."""

from __future__ import annotations

import sys

from qcore.requires import MissingPackage, models_for


def main() -> None:
    """Runs the command line, or says in one line which package it lacks."""
    try:
        with models_for("the command qcore"):
            from qcore.cli import main as run

            run()
    except MissingPackage as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
