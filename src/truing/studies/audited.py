"""Models to audit and checkpoints that exist already: where they are, of which step, on which base model.

    DIR/checkpoint-N            of a Trainer, a study's run, or whatever names them so; N is the step
    DIR                         one checkpoint itself
    NAME, STEP=NAME             a model at an endpoint
    tinker://RUN/.../NAME       weights on Tinker

A folder of checkpoints is a run. Nothing is loaded here: configs are read, and weights hashed from safetensors.
Invariants: steps of a run differ and are above 0, and two runs share no weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePath

from truing.backends import BACKENDS, engine_class, find_backend, split_name
from truing.config import AuditConfig
from truing.core.errors import ConfigError, DataError
from truing.core.records import Checkpoint
from truing.studies.checkpoints import FoundRun, find_in_folders

__all__ = ["FoundRun", "find_runs", "step_of_name"]


def find_runs(config: AuditConfig) -> list[FoundRun]:
    """The runs that an audit is about: each model a run of one checkpoint, or the runs of its checkpoints.

    Raises:
        UnknownNameError: No model of a name.
        DataError: Checkpoints that are not there, not whole, not safe, or do not belong together.
        ConfigError: Names at an endpoint whose steps do not make a run.
    """
    weights = _weights_of(config)
    if config.models:
        return _models(config, weights)
    if find_backend("engine", _engine_of(config)).by_name:
        runs = _named(config, weights)
    else:
        runs = find_in_folders(config.checkpoints, config.base)
    _refuse_copies(runs)
    return runs


def step_of_name(name: str) -> int | None:
    """The step in a name, `...:ckpt-step-60` at OpenAI or `tinker://.../000060` on Tinker; None if there is none."""
    row, _ = split_name(name)
    patterns = [row.step] if row else [each.step for each in BACKENDS if each.step and not each.scheme]
    found = next((found for pattern in patterns if (found := re.search(pattern, name))), None)
    return int(found[1]) if found else None


def _weights_of(config: AuditConfig) -> Callable[[str], str]:
    """What names a model's weights: their hash, or the address and the name where they cannot be seen."""
    engine = engine_class(_engine_of(config))
    return lambda model: engine.weights_of(model, config)


def _engine_of(config: AuditConfig) -> str:
    """Whose names the checkpoints have, else the engine that samples."""
    rows = (split_name(_parted(entry)[1])[0] for entry in config.checkpoints)
    return next((row.engine[0] for row in rows if row and row.scheme and row.engine), config.evaluation.engine)


def _models(config: AuditConfig, weights: Callable[[str], str]) -> list[FoundRun]:
    short = [PurePath(model).name for model in config.models]
    named = {s if short.count(s) == 1 else m: m for s, m in zip(short, config.models, strict=True)}
    base = None if config.base is None else weights(config.base)
    return [
        FoundRun(
            run_id,
            model,
            (Checkpoint(run_id, model, 1, weights(model)),),
            None if config.base is None or base is None else Checkpoint(run_id, config.base, 0, base),
        )
        for run_id, model in named.items()
    ]


def _named(config: AuditConfig, weights: Callable[[str], str]) -> list[FoundRun]:
    """Runs of models that are known by name alone: all of one run, on Tinker of as many as the paths name."""
    entries: dict[str, list[tuple[int | None, str]]] = {}
    for entry in config.checkpoints:
        step, name = _parted(entry)
        row, _ = split_name(name)
        run_id = name.removeprefix(row.scheme).partition("/")[0] if row and row.scheme else config.name
        entries.setdefault(run_id, []).append((step, name))
    runs = []
    for run_id, named in entries.items():
        steps, notes = _steps(run_id, named)
        model = config.base or named[-1][1]
        found = (Checkpoint(run_id, model, s, weights(n), n) for s, (_, n) in zip(steps, named, strict=True))
        base = None if config.base is None else Checkpoint(run_id, config.base, 0, weights(config.base))
        runs.append(FoundRun(run_id, model, tuple(sorted(found, key=lambda c: c.step)), base, notes))
    return runs


def _parted(entry: str) -> tuple[int | None, str]:
    """Step, as given or as the name tells it, and name."""
    given = re.fullmatch(r"(\d+)=(.+)", entry)
    return (int(given[1]), given[2]) if given else (step_of_name(entry), entry)


def _steps(run_id: str, named: Sequence[tuple[int | None, str]]) -> tuple[list[int], tuple[str, ...]]:
    """The steps of names, 1, 2, ... where none is known, and what is to be said of that."""
    known = [step for step, _ in named if step is not None]
    if not known:
        order = ", ".join(name for _, name in named)
        return list(range(1, len(named) + 1)), (
            f"Run {run_id}: no steps were given, so its checkpoints are numbered in the order given: {order}.",
        )
    if len(known) < len(named):
        lacking = next(name for step, name in named if step is None)
        raise ConfigError(f"{lacking} has no step, others have", entry_words(named), "all or none", "write STEP=NAME")
    if len(set(known)) < len(known) or 0 in known:
        raise ConfigError(
            f"the steps of run {run_id} do not make a run",
            entry_words(named),
            "different steps from 1 on",
            "name the model before fine-tuning with --base, and each step once",
        )
    return known, ()


def entry_words(named: Sequence[tuple[int | None, str]]) -> str:
    """Steps and names, to be read."""
    return ", ".join(name if step is None else f"{step}={name}" for step, name in named)


def _refuse_copies(runs: Sequence[FoundRun]) -> None:
    seen: dict[str, Checkpoint] = {}
    for checkpoint in (c for run in runs for c in run.checkpoints):
        other = seen.setdefault(checkpoint.weights, checkpoint)
        if other.run_id != checkpoint.run_id:
            raise DataError(
                "two runs have the same weights",
                f"{other.run_id} at step {other.step} and {checkpoint.run_id} at step {checkpoint.step}",
                "different weights in every run",
                "leave one of the two out",
            )
