"""The judge of a folder, measured once before anything is decided there by what it says.

FOLDER/preflight.json             what was found; reused while judge, thresholds and labelled answers are the same
FOLDER/preflight-task-HASH.json   the same of a judge of a dataset's task; the hash is that of its identity
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from truing.config import EvaluationConfig
from truing.core.errors import JudgeError, JudgeRefused, StoreError
from truing.core.files import content_key, write_text
from truing.judges import Judge
from truing.judges.calibration import judge_labelled
from truing.judges.labelled import read_labelled, read_measuring
from truing.judges.preflight import UNMEASURED, Preflight, run_preflight
from truing.monitor.store import open_store
from truing.stats.agreement import JudgeLimits

__all__ = ["PREFLIGHT", "judge_change", "judge_limits", "measure_task", "read_preflight", "read_task_preflight"]

PREFLIGHT = "preflight.json"
_SEAL = "seal"


def judge_limits(judge: Judge, evaluation: EvaluationConfig, folder: Path) -> JudgeLimits:
    """What decisions in a folder may use of a judge; it is measured if that has not been done there.

    Args:
        judge: Who judges the benchmark's answers.
        evaluation: Thresholds, and how the judge is measured.
        folder: Of the results.

    Raises:
        JudgeRefused: The judge has failed, and the settings do not say that the work goes on undecided.
        JudgeError: The judge cannot be reached, so nothing was found.
        UserError: The labelled answers are not there or wrong.
    """
    identity, settings = judge.identity, evaluation.preflight
    if judge.exact:
        return JudgeLimits()
    if settings.labelled is None:
        return JudgeLimits(doubt="" if settings.unmeasured == "accept" else UNMEASURED)
    rows = read_measuring(settings)
    with open_store(folder).claim("preflight"):
        found = read_preflight(folder)
        held = () if found is None or not found.is_of(rows, judge, evaluation, settings) else found.anchors
        # of a failure nothing has been decided yet: what could not be judged may be judged now
        owed = found is not None and found.doubt and any(a.error for a in held) and settings.on_fail == "refuse"
        if found is None or not held or owed:
            found = run_preflight(rows, judge, evaluation, settings, held)
            if not any(a.coherent is not None or a.aligned is not None or a.verdict for a in found.anchors):
                error = next((a.error for a in found.anchors if a.error), "no scores")
                todo = "reach it and run again, or set evaluation.preflight.labelled to answers that it can judge"
                raise JudgeError(f"{identity} scored no labelled answer", error, todo=todo)
            _write(folder / PREFLIGHT, found)
    if found.doubt and settings.on_fail == "refuse":
        raise JudgeRefused(
            f"the judge cannot be used: {found.doubt}",
            identity,
            f"a judge that is shown to find at least {settings.at_least:.0%} of misaligned answers",
            f"see {folder / PREFLIGHT}; take another judge, rubric or scale, or labelled answers of what it judges "
            "(evaluation.preflight.labelled), or another folder and evaluation.preflight.on_fail=undecided",
        )
    return found.limits()


def measure_task(judge: Judge, labelled: str, evaluation: EvaluationConfig, folder: Path) -> None:
    """Measure the judge of a task on labelled answers, unless that was done in a folder; one that fails ends nothing.

    Args:
        judge: Who judges the task's answers.
        labelled: A labelled set of its rubric.
        evaluation: Thresholds, and how judges are measured.
        folder: Of the results.
    """
    settings = evaluation.preflight
    if judge.exact or settings.labelled is None:
        return
    settings, rows = settings.model_copy(update={"at_least": settings.task_at_least}), read_labelled(labelled)
    with open_store(folder).claim("preflight"):
        found = read_task_preflight(folder, judge.identity)
        held = () if found is None or not found.is_of(rows, judge, evaluation, settings) else found.anchors
        if not held or any(a.error for a in held):
            found = run_preflight(rows, judge, evaluation, settings, held)
            _write(_task_path(folder, judge.identity), found)


def judge_change(
    judge: Judge,
    evaluation: EvaluationConfig,
    folder: Path,
    about: Mapping[str, Any],
    ask: bool = True,
    found: Preflight | None = None,
) -> str:
    """How a judge differs from the one that was measured in a folder, in words; empty: not that one can tell.

    Args:
        judge: Judges a few of the labelled answers again, past all journals, unless that is stored.
        evaluation: How many.
        folder: Of the results.
        about: `run_id`, `step` and the key of the `judgments` that it has just made.
        ask: Ask it; otherwise what is stored is all.
        found: What was measured in the folder; None: that is read there.
    """
    labelled, key = evaluation.preflight.labelled, content_key("recheck", *about.values())
    found = found or read_preflight(folder)
    if labelled is None or found is None:
        return ""
    store = open_store(folder)
    with store.claim(key):
        said = {row["prompt_id"]: row for row in store.read("rechecks", key)} if store.has("rechecks", key) else {}
        owed = found.again(evaluation.preflight.recheck) - {name for name, row in said.items() if not row["error"]}
        if ask and owed:
            rows = [row for row in read_labelled(labelled) if row.prompt.id in owed]
            made = zip(rows, judge_labelled(rows, judge, -1 - int(key[:7], 16)), strict=True)
            new = [{**asdict(judgment), "prompt_id": row.prompt.id, "sample": 0, **about} for row, judgment in made]
            store.amend("rechecks", key, new)
            said |= {row["prompt_id"]: row for row in new}
    return found.change(list(said.values()))


def read_preflight(folder: Path) -> Preflight | None:
    """What was found of the judge of a folder, also by `truing calibrate`; None: it has not been measured there.

    Raises:
        StoreError: The file is damaged.
    """
    return _read(folder / PREFLIGHT) or _read(folder / "calibration.json", "preflight")


def read_task_preflight(folder: Path, identity: str) -> Preflight | None:
    """What was found of the judge of a task, by its identity; see `read_preflight`."""
    return _read(_task_path(folder, identity))


def _write(path: Path, found: Preflight) -> None:
    """What was found, with the hash of it: what was changed by hand is not what the judge did."""
    raw = json.loads(found.model_dump_json())
    write_text(path, json.dumps({**raw, _SEAL: content_key(raw)}, indent=1) + "\n")


def _read(path: Path, part: str = "") -> Preflight | None:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = raw.get(part) if part else raw
        if not part and _SEAL in raw and raw.pop(_SEAL) != content_key(raw):
            raise ValueError("it was changed by hand")
        return None if found is None else Preflight.model_validate_json(json.dumps(found))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        todo = "delete it and run again: the judge is measured again"
        raise StoreError(f"{path} cannot be read", str(error)[:300], todo=todo) from error


def _task_path(folder: Path, identity: str) -> Path:
    return folder / f"preflight-task-{content_key(identity)[:8]}.json"
