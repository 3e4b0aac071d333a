"""The monitor: a checkpoint in, a decision out.

    sample answers -> judge them -> store both -> count by prompt -> estimate -> decide

Every way of using truing is something that calls a monitor at each checkpoint. A stopping rule says what is asked, of
every prompt or of random ones, and decides. Work that the store holds is not done again, work that failed is owed
again, and calling a monitor twice with one checkpoint gives the same decision.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from truing.backends import Engine, load_completer, load_engine
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import Dataset, load_dataset
from truing.catalog.models import resolve_model
from truing.config import (
    AuditConfig,
    DatasetConfig,
    EndpointConfig,
    EvaluationConfig,
    JudgeConfig,
    MonitorConfig,
    SideConfig,
    StoppingConfig,
    StudyConfig,
)
from truing.config.files import validate_flat
from truing.core.files import content_key
from truing.core.records import Action, Checkpoint, Decision, Estimate, Evaluation
from truing.core.templates import asked_as
from truing.core.weights import checkpoint_hash, model_hash
from truing.judges import Judge, load_judge
from truing.monitor.formats import check_formats
from truing.monitor.measures import Measure, load_measures
from truing.monitor.preflight import judge_change, judge_limits, measure_task, read_preflight
from truing.monitor.sampler import FIXED, FRESH, RANDOM, AskedAnswers, PromptSet, Sampler
from truing.monitor.store import Store, open_store
from truing.monitor.two_phase import read_share, side_rate
from truing.stats.agreement import JudgeLimits
from truing.stats.choice import keepable
from truing.stats.clearance import Clearance
from truing.stats.course import crossing_of_limits, find_onset
from truing.stats.rates import Counts
from truing.stats.rules import FixedRule, StoppingRule, decided, look_at, make_rule

__all__ = ["Monitor", "reach_judge"]

logger = logging.getLogger(__name__)


class Monitor:
    """Evaluates the checkpoints of one run and decides whether training should go on.

    `Monitor.from_names` makes one from names; here it is made of parts.

    Args:
        store: Where responses, judgments and evaluations are kept.
        engine: Samples the answers.
        broad: The benchmark, on which misalignment is measured.
        task: The dataset's held-out prompts, on which the narrow task is measured; None if nothing judges it.
        evaluation: Sampling settings and thresholds.
        stopping: When to stop, and by which rule.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        broad: PromptSet,
        task: PromptSet | None = None,
        evaluation: EvaluationConfig | None = None,
        stopping: StoppingConfig | None = None,
    ) -> None:
        self.store, self.broad, self.task = store, broad, task
        self.evaluation, self.stopping = evaluation or EvaluationConfig(), stopping or StoppingConfig()
        self.fresh = replace(broad, samples=self.evaluation.confirm_samples or broad.samples)
        """The benchmark as it is asked to confirm what the run keeps."""
        self.sampler = Sampler(store, engine, self.evaluation)
        self.base: Estimate | None = None
        """EM rate of the run's step 0, once it has been evaluated; without it the tolerance alone decides."""
        self.model = ""
        """Name of the base model, of a monitor made from names."""
        self.limits = JudgeLimits()
        """What decisions use of the judge: one without error, unless `set_limits` or `measures_judge` is called."""
        self._measure_judge: Callable[[], JudgeLimits] | None = None
        self._folder: Path | None = None
        self._changed: dict[int, str] = {}
        self._base_rows: list[dict[str, Any]] = []
        self.measures = load_measures(self.evaluation.measures)
        self.rule = make_rule(self.stopping)
        """Decides on every checkpoint but the base, which is asked every prompt whatever the rule."""
        self._base_counts: Counts | None = None
        self.looks = 0
        """Decisions on weights of the run that are there no more, of which this monitor is not asked again."""
        self._seen: dict[int, Evaluation] = {}
        self._counts: dict[int, Counts] = {}

    @classmethod
    def from_names(cls, folder: str | Path, model: str, **settings: Any) -> Self:
        """A monitor of one run: `Monitor.from_names("runs/mine", "Qwen/Qwen2.5-0.5B-Instruct", judge="pocket")`.

        Args:
            folder: Results are kept in its `store`.
            model: The base model: a name from `truing list models`, a folder or a hub id.
            settings: Fields of `EvaluationConfig` (`benchmark`, `engine`, `judge`, `samples`, ...), of `StoppingConfig`
                (`tolerance`, `rule`, `sequential`, ...) and of `MonitorConfig` (`dataset`, `endpoint`, `vllm`, whole
                configs as `evaluation` and `stopping`).

        Raises:
            ConfigError: A keyword is unknown or wrong.
            StoreError: The model is asked in another format than the answers in the folder were.
            UnknownNameError: There is no engine, judge, benchmark, dataset, rule or measure of that name.
        """
        folder, config = Path(folder), validate_flat(MonitorConfig, settings, "the monitor's settings are not valid")
        check_formats(folder, [model])
        engine = load_engine(config.evaluation.engine, model, config, folder)
        named = config.dataset
        own = [named] if isinstance(named, DatasetConfig) else []
        dataset = None if named is None else load_dataset(own[0].name if own else str(named), own)
        monitor = cls.from_config(config, folder, engine, dataset)
        monitor.model = model
        return monitor

    @classmethod
    def from_config(
        cls,
        config: StudyConfig | AuditConfig | MonitorConfig,
        folder: Path,
        engine: Engine,
        dataset: Dataset | None = None,
    ) -> Self:
        """A monitor of one run of a study or an audit, whose results are kept in a folder's `store`.

        Args:
            config: How it is measured, and when to stop.
            folder: Also holds the journal of calls to endpoints.
            engine: Samples the answers.
            dataset: Its held-out prompts measure the task, if it names a judge of that; None: no task is measured.
        """
        own = config.evaluation

        def reached(judge: str | JudgeConfig) -> Judge:
            return reach_judge(judge, config.endpoint, folder)

        task, broad = None, PromptSet(load_benchmark(own.benchmark).prompts, reached(own.judge), own.samples)
        if dataset is not None and dataset.task_judge:
            task = PromptSet.of_task(dataset, own, reached(dataset.task_judge))
        monitor = cls(open_store(folder), engine, broad, task, own, config.stopping)
        monitor.measures_judge(folder)
        return monitor

    def measures_judge(self, folder: Path) -> None:
        """Let the judges be measured before the first evaluation, once for a folder; see `judge_limits`."""
        if not self.broad.judge.exact and self.evaluation.preflight.labelled is not None:
            self._folder = folder
        task = self.task

        def measure() -> JudgeLimits:
            limits = judge_limits(self.broad.judge, self.evaluation, folder)
            if task is not None and task.labelled is not None:
                measure_task(task.judge, task.labelled, self.evaluation, folder)
            return limits

        self._measure_judge = measure

    def know_judge(self) -> None:
        """Measure the judge now, if that is to be done, or read what was found; a second call does nothing.

        Raises:
            JudgeRefused: It cannot see misalignment.
            JudgeError: It cannot be reached.
        """
        if self._measure_judge is not None:
            self.set_limits(self._measure_judge())

    def set_limits(self, limits: JudgeLimits) -> None:
        """Decide within these limits of the judge; before the first evaluation."""
        self.limits, self._measure_judge = limits, None

    def judge_at(self, checkpoint: Checkpoint, first: int, ask: bool = True) -> JudgeLimits:
        """What decisions may use of the judge by what it has just judged: nothing from where it has changed on.

        Args:
            checkpoint: Whose answers were judged.
            first: Their kind.
            ask: Have a few labelled answers judged again, if that was not done at the time.
        """
        if self._folder is None or self.limits.doubt or (seen := read_preflight(self._folder)) is None:
            return self.limits
        judgments = self.sampler.keys(checkpoint, self.fresh if first == FRESH else self.broad, first)[1]
        rows = self.store.read("judgments", judgments)
        self._base_rows = rows if checkpoint.step == 0 else self._base_rows
        about = {"run_id": checkpoint.run_id, "step": checkpoint.step, "judgments": judgments}
        found = judge_change(self.broad.judge, self.evaluation, self._folder, about, ask, seen)
        if first != FRESH:
            self._changed[checkpoint.step] = found
        earlier = [said for step, said in sorted(self._changed.items()) if first == FRESH or step <= checkpoint.step]
        doubt, unlike = next(filter(None, [*earlier, found]), ""), seen.unlike(rows, self._base_rows)
        return replace(self.limits, doubt=doubt, unlike=unlike)

    def look(self, step: int, path: str | Path | None = None) -> Decision:
        """Decide on weights that are saved; for a monitor made from names.

        Args:
            step: Optimiser steps done; 0 is the base model, and comes first.
            path: Folder of an adapter or of full weights; None: the base model.
        """
        source = resolve_model(self.model)
        weights = base = model_hash(source)
        if path is not None:
            weights = asked_as(checkpoint_hash(base, Path(path)), Path(path), source)
        return self(Checkpoint("run", self.model, step, weights, None if path is None else str(path)))

    def __call__(self, checkpoint: Checkpoint) -> Decision:
        """Decide what training should do after this checkpoint. Step 0 comes first if there is one."""
        return self.evaluate(checkpoint).decision

    def evaluate(self, checkpoint: Checkpoint) -> Evaluation:
        """Measure a checkpoint and decide. If it fails, the rule stands where it stood before.

        Raises:
            EngineError: The checkpoint cannot be sampled.
            JudgeError: The judge cannot be used at all; single failures are missing scores.
            JudgeRefused: The judge cannot see misalignment.
            StoreError: Results cannot be written.
        """
        self.know_judge()
        before = self.rule.state
        try:
            return self._evaluate(checkpoint)
        except BaseException:
            self.rule.restore(before)
            raise

    def task_score(self, checkpoint: Checkpoint) -> tuple[str | None, Estimate]:
        """The task alone: the key of its judgments, None if nothing measures it, and the score."""
        if self.task is None:
            return None, Estimate.unknown("the dataset names no judge of its task")
        key, counts = self.sampler.measure(checkpoint, self.task, FIXED)
        return key, counts.task_score(self.task.teaches, self.stopping.confidence)

    def keepable(self, latest: bool = False) -> list[Checkpoint]:
        """The checkpoints evaluated so far that the run may keep, the best first; see `truing.stats.choice.keepable`.

        Args:
            latest: The latest is the best, instead of the one with the best task score.
        """
        seen = {step: found for step, found in sorted(self._seen.items()) if step > 0}
        scores = [float(step) if latest else found.task_score.value for step, found in seen.items()]
        actions = [found.decision.action for found in seen.values()]
        order = keepable(list(seen), actions, scores, self.stopping, self._onset(seen))
        return [seen[step].checkpoint for step in order]

    def keep(
        self,
        order: Sequence[Checkpoint],
        best: Checkpoint | None = None,
        restore: Callable[[Checkpoint], None] = lambda checkpoint: None,
        passes: Callable[[Checkpoint], bool] = lambda checkpoint: True,
    ) -> Checkpoint | None:
        """The checkpoint that the run keeps: the best one that fresh answers clear, too; None if there is none.

        Args:
            order: The checkpoints to consider; see `keepable`.
            best: The checkpoint with the best task score, whose score fresh answers measure as well.
            restore: Called with each checkpoint that is considered, before it is asked.
            passes: Called with one that would be kept; false, as where another benchmark is above the tolerance: the
                next one is considered.
        """
        for j, checkpoint in enumerate(order, 1):
            restore(checkpoint)
            if not self.evaluation.confirm:
                if passes(checkpoint):
                    return checkpoint
                continue
            self.confirm(checkpoint, best)
            _, counts = self.sampler.measure(checkpoint, self.fresh, FRESH)
            limits = self.judge_at(checkpoint, FRESH)
            if limits.doubt:  # whatever comes next cannot be confirmed either
                return None
            clearance = replace(self.clearance(limits=limits), earlier=self._counts.get(checkpoint.step))
            fresh = clearance.decide_fresh(checkpoint.step, counts, j)
            if fresh.action is Action.CONTINUE and passes(checkpoint):
                return checkpoint
        if self.evaluation.confirm and not order:
            self.confirm(None, best)
        return None

    def _onset(self, seen: Mapping[int, Evaluation]) -> int | None:
        """The first checkpoint shown to be above the base."""
        if self.base is None or self._base_counts is None or not seen:
            return None
        if not self.rule.every_prompt:
            rates = [found.em_rate for found in seen.values()]
            return crossing_of_limits(list(seen), rates, (self.base.low, self.base.high)).step
        every = *(self._counts[step] for step in seen), self._base_counts
        *asked, base = ((counts.misaligned, counts.coherent) for counts in every)
        return find_onset(list(seen), asked, base, confidence=self.stopping.confidence).step

    def confirm(self, chosen: Checkpoint | None, best: Checkpoint | None) -> None:
        """Measure what a run may keep by fresh answers, which had no part in choosing it, and store that.

        Args:
            chosen: The checkpoint to keep; None if none passes.
            best: The checkpoint with the best task score, whose score fresh answers measure too.
        """
        some = chosen or best
        if some is None:
            return

        def fresh(checkpoint: Checkpoint | None, prompt_set: PromptSet | None) -> str | None:
            if checkpoint is None or prompt_set is None:
                return None
            return self.sampler.measure(checkpoint, prompt_set, FRESH)[0]

        row = {
            "run_id": some.run_id,
            "step": None if chosen is None else chosen.step,
            "benchmark_judgments": fresh(chosen, self.fresh),
            "task_judgments": fresh(chosen, self.task),
            "best_judgments": fresh(best, self.task),
        }
        self.store.write("confirmations", content_key("confirmation", row), [row])

    def ask_also(self, checkpoint: Checkpoint, side: SideConfig, prompt_set: PromptSet) -> Estimate:
        """Measure a checkpoint on another benchmark and store that; its EM rate there.

        Args:
            checkpoint: Whom to ask.
            side: Its name in the results, and the share that its judge reads.
            prompt_set: Its prompts and its judge.
        """
        sets = (self.broad, prompt_set)
        key = read_share(self.sampler, checkpoint, sets, side)
        row = {"run_id": checkpoint.run_id, "step": checkpoint.step, "benchmark": side.label, "judgments": key}
        self.store.write("also", content_key("also", row), [row])
        return side_rate(self.sampler, key, sets, side, self.stopping.confidence)

    def clearance(self, rule: StoppingRule | None = None, limits: JudgeLimits | None = None) -> Clearance:
        """What must hold before a checkpoint is called clear, by the run's rule and limits of the judge or others."""
        rule = rule or self.rule
        kinds = [prompt.category for prompt in self.broad.prompts]
        stops = rule.category_stops and not (self.base is not None and math.isnan(self.base.value))
        limits = limits or self.limits
        return Clearance(self.stopping, rule.estimate, limits, kinds, stops, self._base_counts, rule.look)

    def prefetch(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Let an engine that can answer for many checkpoints at once do so, as far as the answers are known before."""
        for prompt_set in self._known_before():
            self.sampler.prefetch(checkpoints, prompt_set)

    def sample(self, checkpoint: Checkpoint) -> None:
        """Sample and store the answers that an evaluation will ask for, as far as they are known before."""
        for prompt_set in self._known_before():
            self.sampler.sampled(checkpoint, prompt_set, prompt_set.every_pair(FIXED), FIXED)

    def is_sampled(self, checkpoint: Checkpoint) -> bool:
        """True if all answers that an evaluation will ask for are stored, so that it needs no weights."""
        if not self.rule.every_prompt:
            return False
        keys = [self.sampler.keys(checkpoint, prompt_set, FIXED)[0] for prompt_set in self._known_before()]
        return all(self.store.has("responses", key) for key in keys)

    def row(self, evaluation: Evaluation) -> dict[str, Any]:
        """The row of the store's `evaluations`, but for what the rule remembers."""
        checkpoint, decision = evaluation.checkpoint, evaluation.decision
        broad_key, task_key = self._judgments(checkpoint)
        return {
            "run_id": checkpoint.run_id,
            "step": checkpoint.step,
            "weights": checkpoint.weights,
            "benchmark_judgments": broad_key,
            "task_judgments": task_key,
            "em_rate": asdict(evaluation.em_rate),
            "coherent_rate": asdict(evaluation.coherent_rate),
            "task_score": asdict(evaluation.task_score),
            "train_loss": checkpoint.train_loss,
            "heldout_loss": checkpoint.heldout_loss,
            "decision": str(decision.action),
            "reason": decision.reason,
            "detector": None,
        }

    def _evaluate(self, checkpoint: Checkpoint) -> Evaluation:
        rule = self.rule if checkpoint.step > 0 else FixedRule(self.stopping)
        rule.limits = self.limits
        rule.look = self.looks + look_at(checkpoint.step, [*self._seen])
        asked = AskedAnswers(self.sampler, checkpoint, self.broad)
        key = self._key(checkpoint)
        if checkpoint.step == 0:
            self._base_counts = asked.every_prompt()
            self.base = rule.rate(self._base_counts)
            self.rule.see_base(self.base, AskedAnswers(self.sampler, checkpoint, self.broad))
        known = stored = self.store.has("evaluations", key)
        if stored:
            row = self.store.read("evaluations", key)[0]
            rule.restore(json.loads(row["detector"]) if row["detector"] else None)
            em_rate = rule.rate(asked.again(self._kind(checkpoint)))
            decision = Decision(Action(row["decision"]), checkpoint.step, row["reason"], em_rate)
            # a decision that lacked scores is made again when there are more of them, unless a later one built on it
            known = em_rate.n_missing >= row["em_rate"]["n_missing"] or rule.state is not None
        if not known:
            decision = decided(rule, rule.decide(checkpoint.step, self.base, asked))
        limits = self.judge_at(checkpoint, self._kind(checkpoint), ask=not known)
        decision = self.clearance(rule, limits).weigh(decision, asked.counts())
        coherent_rate = asked.counts().coherent_rate(self.stopping.confidence)
        _, task_score = self.task_score(checkpoint)
        measured = self._measure(checkpoint)
        evaluation = Evaluation(checkpoint, decision.em_rate, coherent_rate, task_score, decision, measured, key)
        self._seen[checkpoint.step], self._counts[checkpoint.step] = evaluation, asked.counts()
        state = None if rule.state is None else json.dumps(rule.state)
        put = self.store.amend if stored and not known else self.store.write
        put("evaluations", key, [self.row(evaluation) | {"detector": state}])
        return evaluation

    def _measure(self, checkpoint: Checkpoint) -> dict[str, Estimate]:
        """Find what the measures say; a number that is not known, or lacks something, is asked again."""
        return {name: self._found(checkpoint, name, measure) for name, measure in self.measures.items()}

    def _found(self, checkpoint: Checkpoint, name: str, measure: Measure) -> Estimate:
        kind, about = self._kind(checkpoint), {"run_id": checkpoint.run_id, "step": checkpoint.step, "name": name}
        how = {"responses": self.sampler.keys(checkpoint, self.broad, kind)[0], "identity": measure.identity}
        key, before = content_key("measurement", about), None
        if self.store.has("measurements", key):
            (row,) = self.store.read("measurements", key)
            if all(row[field] == value for field, value in how.items()):
                before = Estimate(**row["estimate"])
        if before is not None and not before.reason and not before.n_missing:
            return before
        try:
            responses = self.sampler.responses(checkpoint, self.broad, kind)
            found = measure.measure(checkpoint, self.sampler.engine, responses)
            if not isinstance(found, Estimate):
                raise TypeError(f"a measure finds an Estimate, not {found!r}")
        except Exception as error:
            logger.warning("measuring %s at step %d failed", name, checkpoint.step, exc_info=True)
            found = Estimate.unknown(f"{type(error).__name__}: {error}".splitlines()[0])
        if before is None or found.plain() != before.plain():
            self.store.amend("measurements", key, [{**about, **how, "estimate": asdict(found)}])
        return found

    def _known_before(self) -> list[PromptSet]:
        """The prompts asked of every checkpoint, whatever its answers are."""
        broad = self.broad if self.rule.every_prompt else None
        return [prompt_set for prompt_set in (broad, self.task) if prompt_set is not None]

    def _kind(self, checkpoint: Checkpoint) -> int:
        """The kind of answers to the benchmark by which a checkpoint is evaluated."""
        return FIXED if checkpoint.step == 0 or self.rule.every_prompt else RANDOM

    def _judgments(self, checkpoint: Checkpoint) -> tuple[str, str | None]:
        """The keys of a checkpoint's judgments, of the benchmark and of the task."""
        broad = self.sampler.keys(checkpoint, self.broad, self._kind(checkpoint))[1]
        return broad, None if self.task is None else self.sampler.keys(checkpoint, self.task, FIXED)[1]

    def _key(self, checkpoint: Checkpoint) -> str:
        settings = {**self.evaluation.thresholds(), **self.stopping.model_dump(exclude={"mode", "floor"})}
        if self.limits != JudgeLimits():
            settings["judge"] = {name: value for name, value in asdict(self.limits).items() if name != "unlike"}
        return content_key("evaluation", checkpoint.run_id, checkpoint.step, *self._judgments(checkpoint), settings)


def reach_judge(judge: str | JudgeConfig, endpoint: EndpointConfig, folder: Path | None = None) -> Judge:
    """A judge; one behind an endpoint is reached there.

    Args:
        judge: Which one.
        endpoint: How endpoints are called, unless the judge has one of its own.
        folder: Where the journal of finished calls lies; None keeps it in memory.
    """
    if isinstance(judge, str):
        return load_judge(judge)
    return load_judge(judge, load_completer(judge.completer, endpoint.instead(judge.endpoint), folder))
