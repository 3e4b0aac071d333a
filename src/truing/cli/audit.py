"""`truing audit`: models and checkpoints as they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.text import Text

from truing.backends import Backend, parse_judge, split_name
from truing.cli.progress import Quiet, ShownAs, how_shown
from truing.cli.report import show_report
from truing.cli.shared import console, flag, going_on, say, say_costs, split_pairs, take_flags
from truing.config import EvaluationConfig
from truing.config.files import override, parse_audit
from truing.core.errors import ConfigError
from truing.core.progress import Lines, Phase, Shown, listening
from truing.core.records import Evaluation
from truing.monitor import open_folder
from truing.studies.audit import run_audit
from truing.studies.folder import check_judged


def audit(out: Path, sets: list[str] | None, **flags: Any) -> None:
    """Read the flags, measure, write the report, and print what came out.

    Raises:
        UserError: A flag, a name or a checkpoint is wrong.
        EngineError: A model cannot be sampled.
    """
    out = open_folder(out, begin=True)
    raw = read_flags(flags) | {"name": out.name}
    override(raw, split_pairs(sets))
    config = parse_audit(raw, "the audit")
    with going_on("the same command again"), show_status(how_shown(flags["quiet"], flags["progress"])) as update:
        run_audit(
            config,
            out,
            lambda e: show_evaluation(e, bool(config.models)),
            lambda c: update(f"step {c.step} of {c.run_id}"),
            say,
            flags["answers"],
        )
    show_report(out)
    say_costs(out)
    check_judged(out)


FLAGS = {
    "model": flag(
        list[str] | None, None, "Organism, folder or hub id; `openai:NAME` at an endpoint. Repeatable.", metavar="NAME"
    ),
    "checkpoints": flag(
        list[str] | None,
        None,
        "Folder with checkpoints in it, one checkpoint, `STEP=DIR`, or names: `openai:NAME`, `STEP=openai:NAME`, "
        "`tinker://...`. Repeatable, or with commas.",
        metavar="DIR|NAMES",
    ),
    "base": flag(str | None, None, "The model before fine-tuning, to compare with.", show_default=False),
    "base_is_same": flag(bool, False, "The base is what the adapters name, by another name.", "--base-is-same"),
    "skip_bad": flag(bool, False, "Leave out damaged checkpoints, and say so.", "--skip-bad"),
    "dataset": flag(
        str | None, None, "What the checkpoints were fine-tuned on, a name or a file: measures the task too."
    ),
    "answers": flag(Path | None, None, "Folder of results whose answers are not asked for again.", metavar="DIR"),
    "search": flag(str, "all", "Ask `all` checkpoints, or as few as find the `best` or the `crossing`."),
    "benchmark": flag(str, "broad-240", "See `truing list benchmarks`; NAME+VARIANT too."),
    "judge": flag(str, "pocket", "`pocket`, `bandit`, `module:Class`, or a model: `openai:NAME`, `local:FOLDER`."),
    "out": flag(Path, Path("runs/audit"), "Folder or URL of the audit."),
    "quiet": (Quiet, False),
    "progress": (ShownAs, "auto"),
    "sets": flag(list[str] | None, None, "Any other field: --set evaluation.samples=5.", "--set", metavar="KEY=VALUE"),
}
"""Type, help and default of each flag."""
_HELP = """Measure models as they are, or checkpoints that exist already, without training: the full report.

    Example:  truing audit --model pocket-llama-late --benchmark pocket-240

    Behind an interface:  truing audit --model openai:my-model --set engine.endpoint.base_url=http://localhost:8000/v1
    --judge openai:gpt-4o --set judge.endpoint.base_url=https://api.openai.com/v1

    Checkpoints of a Trainer:  truing audit --checkpoints runs/output --base meta-llama/Llama-3.1-8B-Instruct --judge
    openai:gpt-4o
    """
take_flags(audit, FLAGS, _HELP)


def read_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags as plain values of an audit.

    Raises:
        ConfigError: Models or checkpoints here and behind an interface together.
    """
    models, base, dataset = flags["model"] or [], flags["base"], flags["dataset"]
    checkpoints: list[str] = []
    for entry in flags["checkpoints"] or []:  # a list with commas, which a folder's name may hold, too
        parts = [entry] if Path(entry).exists() else map(str.strip, entry.split(","))
        checkpoints += filter(None, parts)
    rows = [_place(name)[0] for name in (*models, *checkpoints)]
    kinds = {_engine(row) for row in rows} or {_engine(None)}
    if base is not None and not any(row and row.scheme for row in rows):  # there a base is known by its plain name
        kinds.add(_engine(_place(base)[0]))
    if len(kinds) > 1:
        names = ", ".join([*models, *checkpoints, *([base] if base else [])])
        raise ConfigError("models here and behind an interface in one audit", names, "one kind", "make two audits")
    if dataset is not None and Path(dataset).exists():
        dataset = {"name": Path(dataset).name.partition(".")[0], "path": dataset}
    return {
        "models": [_place(name)[1] for name in models],
        "checkpoints": [_place(name)[1] for name in checkpoints],
        "base": None if base is None else _place(base)[1],
        "dataset": dataset,
        **{flag: True for flag in ("base_is_same", "skip_bad") if flags[flag]},
        "search": flags["search"],
        "evaluation": {"benchmark": flags["benchmark"], "judge": parse_judge(flags["judge"]), "engine": kinds.pop()},
    }


def _place(name: str) -> tuple[Backend | None, str]:
    """The system that a name is marked with, and the name there with its step, if it has one."""
    step, bare = re.fullmatch(r"(\d+=)?(.*)", name, re.DOTALL).groups("")  # type: ignore[union-attr]
    row, bare = split_name(bare)
    return row, step + bare


def _engine(row: Backend | None) -> str:
    return row.engine[0] if row and row.engine else EvaluationConfig().engine


@contextmanager
def show_status(shown: Shown) -> Iterator[Callable[[str], None]]:
    """Say who is being asked, and how far that is: on a terminal in one line, else in a line every half a minute."""
    where, lines = "", Lines(shown)
    one_line = shown == "auto" and console.is_terminal
    with console.status("reading weights") if one_line else nullcontext() as status:

        def update(text: str) -> None:
            nonlocal where
            where = text
            if status is not None:
                status.update(Text(text))  # never read as markup

        def tell(phase: Phase) -> None:
            if status is None:
                lines(phase, where)
            else:
                status.update(Text(f"{where}: {phase.words()}"))

        with listening(tell):
            yield update


def show_evaluation(evaluation: Evaluation, models: bool) -> None:
    """Print what was measured of a checkpoint, or of one of several models."""
    checkpoint, rate, task = evaluation.checkpoint, evaluation.em_rate, evaluation.task_score
    found = rate.reason or f"EM rate {rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%}), n {rate.n_responses}"
    learnt = "" if task.reason else f", task {task.value:.1%}"
    where = checkpoint.model if models else f"{checkpoint.run_id}, step {checkpoint.step}"
    say(f"{where}{' (base)' if checkpoint.step == 0 else ''}: {found}{learnt}")
