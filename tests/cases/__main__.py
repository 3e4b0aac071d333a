"""Run the cases of a folder and print case, got, right, verdict; exit code 1 if one is wrong."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections import Counter
from pathlib import Path

import tests.cases as checks


def say(text: str) -> None:
    """Print a text."""
    sys.stdout.write(text)


def main() -> int:
    """Print each case as it ends; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cases", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of the cases")
    parser.add_argument("names", nargs="*", help="cases to run, by the beginning of their names; all if none is given")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        say(f"no cases at {arguments.folder}: nothing was run (make cases CASES=FOLDER)\n")
        return 0
    for module in pkgutil.iter_modules(checks.__path__):
        if module.name != "__main__":
            importlib.import_module(f"tests.cases.{module.name}")
    verdicts: Counter[str] = Counter()
    for result in checks.run_cases(arguments.folder, arguments.names):
        verdicts[result.verdict] += 1
        say(f"{result.name}: {result.verdict}{f' ({result.why})' if result.why else ''}\n")
        if result.right:
            say(f"  got:   {result.got}\n  right: {result.right}\n")
        sys.stdout.flush()
    say((", ".join(f"{n} {verdict}" for verdict, n in sorted(verdicts.items())) or "no case of that name") + "\n")
    return int(verdicts["WRONG"] > 0 or not verdicts)


if __name__ == "__main__":
    sys.exit(main())
