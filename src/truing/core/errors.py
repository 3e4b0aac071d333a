"""Every error truing raises.

    TruingError
    ├── UserError               you can fix it: the command line prints it without a traceback and exits with 2
    │   ├── ConfigError         a study file, a flag or a field
    │   ├── DataError           a dataset or benchmark file
    │   ├── UnknownNameError    no model, benchmark, judge, ... of that name
    │   ├── MissingExtraError   an optional library is not installed
    │   ├── EndpointError       an endpoint refuses the key, the quota or the model
    │   ├── JudgeRefused        the judge does not see misalignment where people labelled it
    │   └── StoreError          a folder that holds something else, or cannot be written
    └── WorkError               work failed from outside; what was owed is owed again on the next run
        ├── EngineError         sampling answers failed
        ├── JudgeError          judging answers failed
        ├── TrainerError        training failed
        └── CapReached          the study's cap on calls or cost is reached; what was finished is kept

A message says four things: what happened, what was got, what is allowed, what to do. Every class can be pickled, so an
error raised in a worker process arrives whole.
"""

from __future__ import annotations

import difflib
import errno
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class TruingError(Exception):
    """Base of every error of truing.

    Args:
        what: What happened, as a sentence without the final stop.
        got: The offending value, as text.
        allowed: What would have been accepted.
        todo: What the reader can do about it.
    """

    def __init__(self, what: str, got: str = "", allowed: str = "", todo: str = "") -> None:
        super().__init__(what, got, allowed, todo)
        self.what, self.got, self.allowed, self.todo = what, got, allowed, todo

    def __str__(self) -> str:
        parts = [self.what]
        for label, text in (("got", self.got), ("allowed", self.allowed), ("to do", self.todo)):
            if text:
                parts.append(f"  {label}: {text}")
        return "\n".join(parts)


class UserError(TruingError):
    """Something the user can fix."""


class ConfigError(UserError):
    """A study file, a flag or a field is wrong."""


class DataError(UserError):
    """A dataset or benchmark file is wrong; the message names the file and the line or item."""


class UnknownNameError(UserError):
    """Nothing has that name."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """The error for an unknown name of a kind ("model", "judge", ...), with the closest known ones."""
        names = sorted(known)
        return cls(f"unknown {kind}", repr(name), ", ".join(names), did_you_mean(name, names))


class MissingExtraError(UserError):
    """An optional library is not installed."""

    @classmethod
    def of(cls, library: str, extra: str) -> MissingExtraError:
        """The error for a library that the extra `truing[extra]` brings."""
        return cls(f"{library} is not installed", todo=f'pip install "truing[{extra}]" (from a checkout: ".[{extra}]")')


class EndpointError(UserError):
    """An endpoint refuses the key, the quota or the model: no further call can succeed."""


class JudgeRefused(UserError):
    """The judge does not see misalignment where people labelled it, so nothing may be decided by what it says."""


class StoreError(UserError):
    """A folder holds something else, or cannot be written."""


class WorkError(TruingError):
    """Work failed from outside; it is owed again on the next run."""


class EngineError(WorkError):
    """Sampling answers failed."""


class JudgeError(WorkError):
    """Judging answers failed."""


class TrainerError(WorkError):
    """Training failed."""


class CapReached(WorkError):
    """The study's cap on calls or cost is reached. What was finished is kept, the rest is owed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the known names closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else ""


def plural(number: int, noun: str, many: str = "") -> str:
    """A number with its noun: `1 run`, `1,200 runs`; `many` where that is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else many or f'{noun}s'}"


_INSTALLED = ("<", str(Path(__file__).parents[1]), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))


@contextmanager
def boundary(what: str, kind: type[WorkError]) -> Iterator[None]:
    """The one place that turns foreign exceptions into our own.

    Args:
        what: What was being done, for the message.
        kind: What a foreign exception becomes, with its place in a file of the user's own. A full disk or a folder that
            cannot be written becomes a `StoreError`.
    """
    try:
        yield
    except TruingError:
        raise
    except Exception as error:  # foreign code raises anything; the cause stays attached
        text = f"{type(error).__name__}: {error}"
        disk_errors = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
        if getattr(error, "errno", None) in disk_errors or "No space left" in text or "File too large" in text:
            raise StoreError(
                f"{what}: the disk is full or cannot be written",
                text,
                todo="free space or check permissions, then run the same command again: it goes on",
            ) from error
        own = [line for line in traceback.extract_tb(error.__traceback__) if not line.filename.startswith(_INSTALLED)]
        where = (
            f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own and not isinstance(error, OSError) else ""
        )
        raise kind(f"{what} failed", text + where) from error
