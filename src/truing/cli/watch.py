"""`truing watch`: beside a training that is going on."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any

import typer

from truing.api import load
from truing.cli.audit import FLAGS, read_flags, show_evaluation, show_status
from truing.cli.progress import how_shown
from truing.cli.report import show_report
from truing.cli.shared import flag, going_on, say, say_costs, say_error, split_pairs, take_flags
from truing.config.files import override, parse_audit
from truing.core.errors import ConfigError, StoreError, TruingError, UserError, plural
from truing.core.records import Evaluation
from truing.monitor import open_folder
from truing.report import write_report
from truing.results.gate import verdict
from truing.studies.watch import Watch
from truing.studies.watch_state import Stop
from truing.studies.watched import is_there, put_there

FAILED = 4
"""Exit code of work that failed: neither the gate's 1, misaligned, nor a user's error; the same command goes on."""


@contextmanager
def _failing() -> Iterator[None]:
    """Say what failed, and exit with a code that says nothing about the model."""
    try:
        yield
    except (UserError, typer.Exit):
        raise
    except Exception as error:
        say_error(str(error) if isinstance(error, TruingError) else traceback.format_exc())
        raise typer.Exit(FAILED) from error


@_failing()
def watch(directory: str, out: Path, sets: list[str] | None, **flags: Any) -> None:
    """Read the flags, watch until an end that was named, write the report, and exit as the gate does.

    Raises:
        UserError: A flag, a name or the first checkpoint is wrong.
        JudgeError: The judge cannot be reached.
        Exit: With the gate's code, 4 if work failed, or 130 on Ctrl-C and SIGTERM.
    """
    out = open_folder(out, begin=True)
    raw = read_flags({**flags, "model": None, "checkpoints": None, "search": "all", "skip_bad": False})
    raw |= {"name": out.name, "checkpoints": [directory]}
    override(raw, split_pairs(sets))
    config, actions = parse_audit(raw, "the watch"), _actions(flags, out)
    if flags["until_file"] is not None:
        is_there(flags["until_file"])  # a URL that cannot be asked is an error now, and waited for later
    with going_on("the same command again"), show_status(how_shown(flags["quiet"], flags["progress"])) as update:

        def told(evaluation: Evaluation) -> None:
            show_evaluation(evaluation, False)
            say(f"  {evaluation.decision.action}: {evaluation.decision.reason}")

        watching = Watch(config, out, actions, say, told, lambda c: update(f"step {c.step} of {c.run_id}"))
        try:
            while not _poll(watching, flags):
                update(f"{watching.watched.place}: {plural(len(watching.state.seen), 'checkpoint')}")
                time.sleep(flags["poll"])
            any_evaluated = watching.finish()
        finally:
            watching.close()
    if not any_evaluated:
        say(f"undecided: no checkpoint in {watching.watched.place} was evaluated")
        raise typer.Exit(3)
    show_report(out)
    say_costs(out)
    results = load(out)
    if (found := results.verdict()).word != verdict(results.analysis).word:  # the weights are others since
        say(found.sentence())
    raise typer.Exit(found.exit_code)


def _poll(watching: Watch, flags: dict[str, Any]) -> bool:
    """Look once; true if the watch is to end, and nothing is left to take up."""
    step, idle, file = flags["until_step"], flags["idle"], flags["until_file"]
    over = False
    with suppress(StoreError):  # asked before looking: what was saved before the file is there to be seen
        over = file is not None and is_there(file)
    if watching.poll():
        write_report(watching.out)
    over |= step is not None and watching.last_step >= step
    over |= idle is not None and watching.idle >= 60 * idle
    return over and watching.settled


def _actions(flags: dict[str, Any], out: Path) -> dict[str, Callable[[Stop], None]]:
    """What is done on stop, by the name of its flag.

    Raises:
        ConfigError: A webhook is no address.
    """
    touch, command, url = flags["on_stop_touch"], flags["on_stop"], flags["on_stop_post"]
    if url is not None and not url.startswith(("http://", "https://")):
        raise ConfigError("--on-stop-post is no address", url.partition(":")[0], "http://... or https://...")

    def run(stop: Stop) -> None:
        told = {"TRUING_STEP": str(stop.step), "TRUING_CHECKPOINT": stop.checkpoint, "TRUING_BEST": stop.best or ""}
        try:
            subprocess.run(command, shell=True, env={**os.environ, **told}, check=True, timeout=_PATIENCE)
        except subprocess.SubprocessError as error:
            how = f"with exit code {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else "not"
            raise OSError(f"the command ended {how}") from error

    def post(stop: Stop) -> None:
        body = json.dumps({"event": "stop", "out": str(out), **stop.model_dump()}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=30).close()
        except (HTTPException, ValueError) as error:
            raise OSError(type(error).__name__) from error

    found: dict[str, tuple[Any, Callable[[Stop], None]]] = {
        "touch": (touch, lambda stop: put_there(touch, stop.model_dump_json(indent=1) + "\n")),
        "command": (command, run),
        "post": (url, post),
    }
    return {name: act for name, (given, act) in found.items() if given is not None}


_PATIENCE = 600
"""Seconds that a command on stop may take."""
_KEPT = ("base", "base_is_same", "dataset", "benchmark", "judge", "quiet", "progress", "sets")
_FLAGS = {
    "directory": (
        Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL into which the training saves checkpoints.")],
        inspect.Parameter.empty,
    ),
    "out": flag(Path, Path("runs/watch"), "Folder or URL of the watch: the store, the report, what was seen."),
    "on_stop_touch": flag(Path | None, None, "On stop, write this file, or object of a URL.", show_default=False),
    "on_stop": flag(
        str | None, None, "On stop, run this command, with TRUING_STEP, TRUING_CHECKPOINT and TRUING_BEST set."
    ),
    "on_stop_post": flag(str | None, None, "On stop, post JSON to this address.", metavar="URL"),
    "until_step": flag(int | None, None, "End once a checkpoint of this step or a later one was evaluated.", min=1),
    "until_file": flag(Path | None, None, "End when this file, or object of a URL, is there.", show_default=False),
    "idle": flag(float | None, None, "End after so many minutes in which nothing changes.", metavar="MINUTES", min=0),
    "poll": flag(float, 10.0, "Seconds between two looks at the folder.", metavar="SECONDS", min=0.01),
    **{name: FLAGS[name] for name in _KEPT},
}
"""Type, help and default of each flag."""
_HELP = """Watch a folder into which a training saves checkpoints: evaluate each one, and act on a decision to stop.

    Example:  truing watch runs/output --judge openai:gpt-4o --on-stop 'scancel $SLURM_JOB_ID' --until-file runs/done

    It is the audit of that folder, one checkpoint after the other as each becomes whole, and begins again where it was.
    At its end it confirms what the run keeps, and exits as `truing gate` does: 0 clear, 1 misaligned, 3 undecided;
    with 4 where work failed, as where the judge cannot be reached: the same command goes on.
    """
take_flags(watch, _FLAGS, _HELP)
