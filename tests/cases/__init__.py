"""Inputs that people really meet, run on truing as it is now: `make cases CASES=FOLDER`.

A case is a folder of `FOLDER`, named `NN-name`, with its files and the right value in its README. What to run for it
and what the output must say is a function here, in any module of this package:

    @case("01-scale-binary", right="refused, with the scale 0 to 1 and the flag that maps it")
    def binary_scores(at: Case) -> None:
        at.truing("analyze judged.csv", exit=2, says=["--aligned-scale 0-1"])
        at.python("import truing; print(truing.__version__)", says=["."])

It works in a copy of the case's folder, so nothing is written where the cases are. `says` and `lacks` are regular
expressions over everything that the command printed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Literal

__all__ = ["CHECKS", "Case", "Check", "Result", "Wrong", "case", "run_cases"]

SOURCE = Path(__file__).parents[2] / "src"
_QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OPENAI_API_KEY": "sk-demo"}
_QUIET |= {"COLUMNS": "200", "NO_COLOR": "1"}


class Wrong(Exception):
    """What a command said is not what is right."""


@dataclass
class Case:
    """One case while it runs."""

    folder: Path
    """A copy of its folder: every command runs there."""
    cases: Path
    """The folder of all cases, to read from: `_lib` is beside the case."""
    printed: list[str] = field(default_factory=list)
    """What each command printed."""

    def truing(self, command: str, exit: int = 0, says: Sequence[str] = (), lacks: Sequence[str] = ()) -> str:
        """Run a command of truing, without the word `truing`; return what it printed."""
        return self._run([sys.executable, "-m", "truing", *shlex.split(command)], exit, says, lacks)

    def python(self, code: str, exit: int = 0, says: Sequence[str] = (), lacks: Sequence[str] = ()) -> str:
        """Run a program; `_lib` of the cases can be imported."""
        return self._run([sys.executable, "-c", code], exit, says, lacks)

    def _run(self, command: list[str], exit: int, says: Sequence[str], lacks: Sequence[str]) -> str:
        path = os.pathsep.join(map(str, (SOURCE, self.cases.resolve() / "_lib")))
        environment = os.environ | _QUIET | {"PYTHONPATH": path}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        text = done.stdout + done.stderr
        self.printed.append(text)
        if done.returncode != exit:
            raise Wrong(f"exit code {done.returncode}, not {exit}")
        for pattern in says:
            if not re.search(pattern, text):
                raise Wrong(f"does not say {pattern!r}")
        for pattern in lacks:
            if found := re.search(pattern, text):
                raise Wrong(f"says {found[0]!r}")
        return text

    @property
    def got(self) -> str:
        """What was printed, short: the first line of an error, else the last line of each command."""
        lines = [text.strip().splitlines() or ["nothing"] for text in self.printed]
        return "; ".join(next((each for each in text if each.startswith("error: ")), text[-1]) for text in lines)


@dataclass(frozen=True)
class Check:
    """What is right for a case, and how it is seen."""

    right: str
    run: Callable[[Case], None]


CHECKS: dict[str, Check] = {}
"""Name of a case -> its check."""


def case(name: str, right: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Enter a check for the case of that name; `right` says in words what the output must say."""

    def enter(run: Callable[[Case], None]) -> Callable[[Case], None]:
        assert name not in CHECKS, f"two checks of {name}"
        CHECKS[name] = Check(right, run)
        return run

    return enter


@dataclass(frozen=True)
class Result:
    """What came of a case."""

    name: str
    got: str
    right: str
    verdict: Literal["right", "WRONG", "no check"]
    why: str = ""


def run_cases(folder: Path, names: Sequence[str] = ()) -> Iterator[Result]:
    """Run all cases of a folder, or those whose name begins with one of `names`."""
    found = sorted(path.name for path in folder.iterdir() if re.match(r"\d\d-", path.name) and path.is_dir())
    for name in found:
        if names and not name.startswith(tuple(names)):
            continue
        if name not in CHECKS:
            yield Result(name, "", "", "no check")
            continue
        check = CHECKS[name]
        with tempfile.TemporaryDirectory(prefix="case-") as scratch:
            own = Path(copytree(folder / name, Path(scratch) / name, ignore=ignore_patterns("out", "got.txt")))
            (own / "out").mkdir()
            at = Case(own, folder)
            try:
                check.run(at)
            except (Wrong, subprocess.TimeoutExpired) as error:
                yield Result(name, at.got, check.right, "WRONG", str(error))
            else:
                yield Result(name, at.got, check.right, "right")
