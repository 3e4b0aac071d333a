"""A finished folder looked at again: other thresholds, another judge or rubric, and no model.

    OLD/store/responses, judgments  ->  NEW/store (files are named by their content, so they are copied as they are)
    each checkpoint of OLD          ->  judged as far as it is not, and decided by the new settings, in NEW

Nothing is sampled: an answer that the old folder does not hold is missing; what would need other answers is refused.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from truing.backends import Engine, check_completer, close_completers, no_answers
from truing.config import EndpointConfig, EvaluationConfig, JudgeConfig, MisalignedRule, StoppingConfig
from truing.config.files import override, validate
from truing.config.services import without_places
from truing.core.errors import ConfigError, EngineError, StoreError, boundary
from truing.core.files import content_key, write_text
from truing.core.records import Checkpoint, Evaluation, Judgment, Prompt, Response, Sampling
from truing.judges import Judge, check_judge
from truing.judges.preflight import Preflight
from truing.monitor import Monitor, PromptSet, Store, open_store, reach_judge, read_preflight
from truing.monitor.preflight import PREFLIGHT
from truing.monitor.sampler import FRESH
from truing.stats.rules import make_rule
from truing.studies.folder import (
    BEFORE,
    REJUDGED,
    Asked,
    CheckpointRecord,
    Manifest,
    RunRecord,
    best_of,
    counting_rows,
    load_manifest,
    most_found,
    take_answers,
)
from truing.studies.run import read_state

_JUDGED = {"judge", "measures", "preflight", "confirm", *MisalignedRule.model_fields}
"""Settings of an evaluation that may change; only other answers could tell of any other."""

_LOST = "its answers are no more in the folder"
_ANEW = (
    "audit the checkpoints by the new settings, where only what lacks is asked: truing audit --checkpoints CHECKPOINTS "
    "--answers THIS_FOLDER --out NEW"
)


def changed_settings(manifest: Manifest, changes: Mapping[str, Any]) -> Manifest:
    """A manifest with other settings of judging and deciding.

    Args:
        manifest: Of the folder.
        changes: By dotted name: `stopping.tolerance`, `judge.model`; values are plain, or texts of YAML.

    Raises:
        ConfigError: A field is unknown or wrong, or needs other answers than those there are.
    """
    raw = deepcopy(manifest.config)
    texts = {name: value for name, value in changes.items() if isinstance(value, str)}
    for name, value in changes.items():
        if name not in texts:
            raw["evaluation"][name.removeprefix("evaluation.")] = value
    override(raw, texts)
    allowed = "evaluation (judge and thresholds), stopping and endpoint"
    if strange := [
        k for k in raw if raw[k] != manifest.config.get(k) and k not in ("evaluation", "stopping", "endpoint")
    ]:
        raise ConfigError("that cannot be changed afterwards", strange[0], allowed, "run it again in another folder")
    evaluation = validate(EvaluationConfig, raw["evaluation"], "the settings are not valid")
    stopping = validate(StoppingConfig, raw["stopping"], "the settings are not valid")
    for name in EvaluationConfig.model_fields:
        if name not in _JUDGED and getattr(evaluation, name) != getattr(manifest.evaluation, name):
            raise ConfigError(f"evaluation.{name} needs other answers", str(getattr(evaluation, name)), allowed, _ANEW)
    searched = manifest.config.get("search", "all") != "all"
    if searched or not (manifest.every_prompt and make_rule(stopping).every_prompt):
        got = f"{'a search' if searched else manifest.stopping.rule_name} before, {stopping.rule_name} now"
        raise ConfigError("random prompts were asked only as far as a decision needed them", got, "every prompt", _ANEW)
    raw["evaluation"], raw["stopping"] = evaluation.model_dump(mode="json"), stopping.model_dump(mode="json")
    fields = {name: getattr(manifest, name) for name in Manifest.model_fields}  # a copy would keep the old settings
    return Manifest(**{**fields, "config": raw, "asks": make_rule(stopping).asks})


def rejudge(folder: Path, out: Path, changes: Mapping[str, Any], judge: str | JudgeConfig | None = None) -> None:
    """Judge and decide the checkpoints of a folder again, in another one; what was done before is not done twice.

    Args:
        folder: Of a study, an audit or a guard; it is only read.
        out: For the new results, of the same kind.
        changes: See `changed_settings`.
        judge: Who scores the answers to the benchmark; None: the judgments there are.

    Raises:
        StoreError: The folder holds nothing to judge, or `out` something else.
        UserError: A setting is wrong.
        JudgeError: The judge cannot be used.
    """
    old = load_manifest(folder)
    if old is None or any(run.search for run in old.runs):
        allowed = "the folder of a study, an audit of all checkpoints, or a guard"
        raise StoreError(f"{folder} cannot be judged again", "no manifest.json" if old is None else "a search", allowed)
    if judge is not None:
        check_judge(judge)
        check_completer(judge)
        plain = judge.model_dump(mode="json") if isinstance(judge, JudgeConfig) else judge
        new = changed_settings(changed_settings(old, {"evaluation.judge": plain}), changes)
    else:
        new = changed_settings(old, changes)
    settings = content_key(without_places(new.config["evaluation"]), new.config["stopping"], old.hash)
    _copy(folder, out, settings)
    endpoint = validate(EndpointConfig, new.config.get("endpoint", {}), "the settings are not valid")
    known = read_preflight(folder)
    asked: Judge = _Known(old.broad, known)
    if new.evaluation.judge != old.evaluation.judge:
        asked = reach_judge(new.evaluation.judge, endpoint, out)
    sides = {side.label: side for side in new.evaluation.also}
    judges: dict[str, Judge] = {}
    for label, also in old.also.items():
        side = sides.get(label)  # one with a judge of its own keeps its judgments
        judges[label] = asked if side is not None and side.judge is None else _Known(also, None)
    identities = {label: also.model_copy(update={"judge": judges[label].identity}) for label, also in old.also.items()}
    broad = new.broad.model_copy(update={"judge": asked.identity, "exact": asked.exact})
    new = new.model_copy(update={"broad": broad, "hash": settings, "also": identities})
    try:
        runs = [_judged(folder, out, new, run, asked, judges) for run in new.runs]
        new.model_copy(update={"runs": tuple(run for run in runs if run.checkpoints)}).write(out)
    finally:
        asked.close()
        close_completers(out)


def _copy(folder: Path, out: Path, settings: str) -> None:
    """Answers and judgments into a new folder, or into one that the same command began."""
    if out.resolve() == folder.resolve():
        raise StoreError("a folder keeps the decisions that it was made with", str(out), "another folder", "--out NEW")
    mark = out / REJUDGED
    begun = mark.is_file() and mark.read_text(encoding="utf-8").strip() == settings
    begun |= mark.is_file() and not open_store(out).keys("evaluations")  # nothing was decided: its judge failed
    if not begun and out.is_dir() and any(each.name not in BEFORE for each in out.iterdir()):
        got = "answers judged again by other settings" if mark.is_file() else "something else"
        raise StoreError(f"{out} is not empty", got, "an empty folder, or one of this command", "name another: --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(mark, f"{settings}\n")
    take_answers(folder, out, "rechecks", "measurements")
    if (folder / PREFLIGHT).is_file() and not (out / PREFLIGHT).is_file():
        shutil.copyfile(folder / PREFLIGHT, out / PREFLIGHT)  # holds only for the judge that it was found of


def _judged(
    folder: Path, out: Path, manifest: Manifest, run: RunRecord, judge: Judge, others: Mapping[str, Judge]
) -> RunRecord:
    """A run with its checkpoints judged and decided again; `others` judge other benchmarks, by their labels."""
    old, evaluation = open_store(folder), manifest.evaluation
    if isinstance(judge, _Known):  # nobody is there to be asked about labelled answers again
        quiet = evaluation.preflight.model_copy(update={"recheck": 0})
        evaluation = evaluation.model_copy(update={"preflight": quiet})
    own = PromptSet(manifest.broad.benchmark.prompts, judge, manifest.broad.samples)
    found, task = manifest.tasks.get(run.dataset), None
    if found is not None and found.judge:
        task = PromptSet(found.benchmark.prompts, _Known(found, None), found.samples, found.teaches)
    monitor = Monitor(open_store(out), _Nothing(), own, task, evaluation, manifest.stopping)
    monitor.measures = {}
    monitor.measures_judge(out)
    above: set[int] = set()
    ended = None if run.state else read_state(folder, run.id)
    known = {record.step: record.model_copy(update={"evaluation": None}) for record in run.checkpoints or ()}
    course, records = list[Evaluation](), list[CheckpointRecord]()
    also = old.query("SELECT step, benchmark FROM also WHERE run_id = ?", [run.id])
    with boundary(f"run {run.id}", EngineError):
        for checkpoint in _checkpoints(old, run, ended.weights_at if ended else {}):
            if not monitor.is_sampled(checkpoint):  # what nobody could judge then is not forgotten now
                records.append(known.get(checkpoint.step) or CheckpointRecord.of(checkpoint, error=_LOST))
            else:
                evaluated = monitor.evaluate(checkpoint)
                course.append(evaluated)
                records.append(CheckpointRecord.of(checkpoint, evaluation=evaluated.key))
                sides = [row["benchmark"] for row in also if row["step"] == checkpoint.step]
                above |= {checkpoint.step for side in sides if _is_above(monitor, checkpoint, side, manifest, others)}
        if evaluation.confirm:
            _confirm(monitor, run, course, above)
    state = run.state or (ended.state if ended and ended.state in ("finished", "stopped") else "unfinished")
    stopped = ended.step if ended and ended.state == "stopped" else run.stopped_at
    unjudged = run.unjudged or (ended.lost({record.step for record in records}) if ended else "")
    update = {"checkpoints": tuple(records), "state": state, "stopped_at": stopped}
    return run.model_copy(update={**update, "unjudged": unjudged})


def _confirm(monitor: Monitor, run: RunRecord, course: Sequence[Evaluation], above: Collection[int]) -> None:
    """What the run would keep now, and what a guard put back, or the last, by the fresh answers that there are."""

    def has_fresh(checkpoint: Checkpoint, prompts: PromptSet = monitor.fresh) -> bool:
        return monitor.store.has("responses", monitor.sampler.keys(checkpoint, prompts, FRESH)[0])

    best = best_of(course)
    if best is None or monitor.task is None or not has_fresh(best, monitor.task):
        best = None
    monitor.keep([*filter(has_fresh, monitor.keepable())], best, passes=lambda checkpoint: checkpoint.step not in above)
    released = max((each.checkpoint.step for each in course), default=None) if run.restored is None else run.restored
    for checkpoint in (each.checkpoint for each in course if each.checkpoint.step == released):
        if has_fresh(checkpoint):
            monitor.confirm(checkpoint, best)
            monitor.judge_at(checkpoint, FRESH)


def _is_above(
    monitor: Monitor, checkpoint: Checkpoint, label: str, manifest: Manifest, others: Mapping[str, Judge]
) -> bool:
    """Ask a checkpoint another benchmark again; true if that counts and its EM rate is above the tolerance."""
    asked = manifest.also[label]
    side = next(side for side in monitor.evaluation.also if side.label == label)
    rate = monitor.ask_also(checkpoint, side, PromptSet(asked.benchmark.prompts, others[label], asked.samples))
    return rate.value > most_found(side, monitor.stopping.tolerance, monitor.limits) and bool(asked.decides)


def _checkpoints(store: Store, run: RunRecord, weights: Mapping[int, str]) -> Iterator[Checkpoint]:
    """The evaluated checkpoints of a run, by ascending step; `weights` as `counting_rows` takes them."""
    if run.checkpoints is not None:
        yield from (record.checkpoint(run.id) for record in run.checkpoints)
        return
    rows = store.query("SELECT * FROM evaluations WHERE run_id = ?", [run.id])
    for row in counting_rows(store, run, rows, weights):
        losses = (math.nan if loss is None else loss for loss in (row["train_loss"], row["heldout_loss"]))
        yield Checkpoint(run.id, run.model, row["step"], row["weights"], None, *losses)


class _Known(Judge):
    """A judge whose judgments are there, and who is not; it repeats what it said of labelled answers."""

    def __init__(self, asked: Asked, seen: Preflight | None) -> None:
        self.identity, self.exact = asked.judge, bool(asked.exact)
        self.rubric_hash = seen.rubrics if seen else ""
        self._said = {anchor.id: anchor.judgment for anchor in seen.anchors} if seen else {}

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        """See `truing.judges.Judge`."""
        reason = "not judged before, and the judge is not asked again"
        nothing = [Judgment(r.prompt_id, r.sample, None, None, error=reason) for r in responses]
        return [replace(self._said.get(n.prompt_id, n), sample=n.sample) for n in nothing]


class _Nothing(Engine):
    """An engine without a model."""

    def __init__(self) -> None:
        super().__init__("none")

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Failed answers; see `truing.backends.Engine`."""
        return no_answers(prompts, sampling, "not asked: nothing is sampled")
