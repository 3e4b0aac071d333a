"""What it costs to audit checkpoints that exist already: all of them, or by the two searches.

    truing demo --out runs/demo && python bench/audits.py runs/demo

Every run of the study that was trained to its end is audited three times with the study's own settings. Prints one JSON
line a run: judged answers to the benchmark by each way (the task's answers, which `all` and `best` need alike, and
confirming ones are left out); the checkpoint to keep; and the crossing, of `all` the last clear checkpoint before the
first that is misaligned. The last line has the sums, how often a search found the same as `all`, and how often they
contradict: what one calls clear the other calls misaligned.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from truing.config import AuditConfig, StudyConfig
from truing.config.files import load_study
from truing.core.records import Run
from truing.results import analyse
from truing.studies.audit import run_audit
from truing.studies.run import read_state, twin_of

WAYS = ("all", "best", "crossing")


def main() -> None:
    """Audit, count and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a study")
    folder = parser.parse_args().study
    config = load_study(folder / "study.yaml")
    lines = []
    for run in (run for each in config.runs() for run in (each, twin_of(each)) if ended(folder, run, config)):
        with tempfile.TemporaryDirectory() as scratch:
            found = {way: audit(config, folder, run, (way, Path(scratch) / way)) for way in WAYS}
        lines.append(compare(run, found))
        print(json.dumps(lines[-1]), flush=True)
    total = {
        "bench": "audits",
        "runs": len(lines),
        "answers": {way: sum(line["answers"][way] for line in lines) for way in WAYS},
        "same": {way: sum(line[way][0] == line[way][1] for line in lines) for way in WAYS[1:]},
        "contradictions": sum(line["contradictions"] for line in lines),
    }
    print(json.dumps(total))


def ended(folder: Path, run: Run, config: StudyConfig) -> bool:
    """Whether a run was trained to its end."""
    state = read_state(folder, run.id)
    return state is not None and state.step == config.training.steps


def audit(config: StudyConfig, folder: Path, run: Run, way: tuple[str, Path]) -> dict[str, Any]:
    """The run's table by one way of asking, with the folder of that audit."""
    raw = {
        "checkpoints": [str(folder / "runs" / run.id)],
        "dataset": run.dataset,
        "search": way[0],
        "evaluation": {**config.evaluation.model_dump(), "also": (), "confirm": False},
        "stopping": {**config.stopping.model_dump(), "mode": "off"},
    }
    run_audit(AuditConfig.model_validate(raw), way[1])
    (found,) = analyse(way[1]).plain()["runs"]
    return dict(found)


def compare(run: Run, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One line: each pair is what `all` says and what the search says."""
    searches = {way: found[way]["search"] for way in WAYS[1:]}
    said = {way: {c["step"]: c["decision"] for c in found[way]["checkpoints"]} for way in WAYS}
    return {
        "run": run.id,
        "answers": {"all": judged(found["all"]), **{way: search["judged"] for way, search in searches.items()}},
        "best": [found["all"]["chosen_step"], searches["best"]["found"]],
        "crossing": [crossing(said["all"]), [searches["crossing"]["found"], searches["crossing"]["next_misaligned"]]],
        "contradictions": sum(
            {said["all"][step], action} == {"continue", "stop"}
            for way in searches
            for step, action in said[way].items()
        ),
    }


def judged(run: dict[str, Any]) -> int:
    """Answers to the benchmark, those of the base among them."""
    rates = [checkpoint["coherent_rate"] for checkpoint in run["checkpoints"]]
    return sum(rate["n_responses"] + rate["n_missing"] for rate in rates)


def crossing(said: dict[int, str]) -> list[int | None]:
    """The last clear step before the first misaligned one, and that one."""
    clear = None
    for step, action in said.items():
        if step > 0 and action == "stop":
            return [clear, step]
        clear = step if step > 0 and action == "continue" else clear
    return [clear, None]


if __name__ == "__main__":
    main()
