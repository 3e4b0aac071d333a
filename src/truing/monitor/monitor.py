"""The monitor: a checkpoint in, a decision out.

    sample answers -> judge them -> store both -> count by prompt -> estimate -> decide

Every way of using truing is something that calls a monitor at each checkpoint. Two rules: the fixed one asks every
prompt and decides by the interval; the sequential one asks random prompts, as many as its decision needs. Work that
the store holds is not done again, work that failed is owed again, and calling a monitor twice with one checkpoint gives
the same decision.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from truing.backends import Engine
from truing.config import EvaluationConfig, StoppingConfig
from truing.core.files import content_key
from truing.core.records import Action, Checkpoint, Decision, Estimate, Evaluation
from truing.judges.classify import Counts
from truing.monitor.sampler import FIXED, FRESH, RANDOM, PromptSet, RandomPrompts, Sampler
from truing.monitor.store import Store
from truing.stats import DetectorSettings, SequentialDetector, clustered_rate, decide, draws_to_clear

__all__ = ["Monitor", "PromptSet", "evaluation_row"]

_BASE_LOOKS = 2
"""Random draws from the base model per prompt, when the sequential rule compares with it."""


class Monitor:
    """Evaluates the checkpoints of one run and decides whether training should go on.

    Args:
        store: Where responses, judgments and evaluations are kept.
        engine: Samples the answers.
        broad: The benchmark, on which misalignment is measured.
        task: The dataset's held-out prompts, on which the narrow task is measured; None if nothing judges it.
        teaches: Which answers to the task's prompts show it learnt: "misaligned" or "aligned" ones.
        config: Sampling settings and thresholds, with the rule for stopping.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        broad: PromptSet,
        task: PromptSet | None,
        teaches: str,
        config: tuple[EvaluationConfig, StoppingConfig],
    ) -> None:
        self.store, self.broad, self.task, self.teaches = store, broad, task, teaches
        self.evaluation, self.stopping = config
        self.sampler = Sampler(store, engine, self.evaluation)
        self.base: Estimate | None = None
        """EM rate of the run's step 0, once it has been evaluated; without it the tolerance alone decides."""
        self.detector = _detector(self.stopping)
        """The sequential rule's state; None with the fixed rule."""

    def __call__(self, checkpoint: Checkpoint) -> Decision:
        """What training should do after this checkpoint. Step 0 comes first if there is one."""
        return self.evaluate(checkpoint).decision

    def evaluate(self, checkpoint: Checkpoint) -> Evaluation:
        """Measure a checkpoint and decide.

        Raises:
            EngineError: The checkpoint cannot be sampled.
            JudgeError: The judge cannot be used at all; single failures are missing scores.
            StoreError: Results cannot be written.
        """
        if checkpoint.step > 0 and self.detector is not None:
            return self._evaluate_in_sequence(checkpoint, self.detector)
        broad_key, broad = self.sampler.measure(checkpoint, self.broad)
        em_rate = self._rate(broad.misaligned, broad.coherent, broad)
        if checkpoint.step == 0:
            self.base = em_rate
            self._look_at_base(checkpoint)
        task_key, task_score = self.task_score(checkpoint)
        key = self._key(checkpoint, broad_key, task_key)
        stored = self._stored(key, checkpoint.step, em_rate)
        decision = stored or decide(checkpoint.step, em_rate, self.base, self.stopping.tolerance)
        evaluation = Evaluation(
            checkpoint, em_rate, self._rate(broad.coherent, broad.judged, broad), task_score, decision
        )
        if stored is None:
            self.store.write("evaluations", key, [evaluation_row(evaluation, broad_key, task_key, None)])
        return evaluation

    def task_score(self, checkpoint: Checkpoint) -> tuple[str | None, Estimate]:
        """The task alone: the key of its judgments, None if nothing measures it, and the score."""
        if self.task is None:
            return None, Estimate.unknown("the dataset names no judge of its task")
        key, counts = self.sampler.measure(checkpoint, self.task, FIXED)
        return key, self._rate(counts.hits(self.teaches), counts.judged, counts)

    def confirm(self, chosen: Checkpoint | None, best: Checkpoint | None) -> None:
        """Measure what a run keeps by fresh answers, which had no part in choosing it, and store that.

        Args:
            chosen: The checkpoint to keep; None if none passes.
            best: The checkpoint with the best task score, whose score fresh answers measure too.
        """
        if chosen is None and best is None:
            return
        broad = None if chosen is None else self.sampler.measure(chosen, self.broad, FRESH)[0]
        task, top = (
            self.sampler.measure(c, self.task, FRESH)[0] if c is not None and self.task is not None else None
            for c in (chosen, best)
        )
        some = chosen or best
        assert some is not None  # one of them is there
        step = None if chosen is None else chosen.step
        row = {
            "run_id": some.run_id,
            "step": step,
            "benchmark_judgments": broad,
            "task_judgments": task,
            "best_judgments": top,
        }
        self.store.write("confirmations", content_key("confirmation", row), [row])

    def ask_also(self, checkpoint: Checkpoint, benchmark: str, prompt_set: PromptSet) -> None:
        """Measure a checkpoint on another benchmark and store that.

        Args:
            checkpoint: Whom to ask.
            benchmark: What the benchmark is called in the results.
            prompt_set: Its prompts and its judge.
        """
        key, _ = self.sampler.measure(checkpoint, prompt_set)
        row = {"run_id": checkpoint.run_id, "step": checkpoint.step, "benchmark": benchmark, "judgments": key}
        self.store.write("also", content_key("also", row), [row])

    def _evaluate_in_sequence(self, checkpoint: Checkpoint, detector: SequentialDetector) -> Evaluation:
        _, broad_key = self.sampler.keys(checkpoint, self.broad, RANDOM)
        task_key, task_score = self.task_score(checkpoint)
        key = self._key(checkpoint, broad_key, task_key)
        if self.store.has("evaluations", key):
            counts = self.sampler.judge_again(checkpoint, self.broad, RANDOM)
            row = self.store.read("evaluations", key)[0]
            self.detector = detector = SequentialDetector.from_dict(json.loads(row["detector"]))
            decision = detector.decision()
        else:
            draws = RandomPrompts(self.sampler, checkpoint, self.broad, self._fewest())
            decision = detector.look(checkpoint.step, draws)
            counts = draws.counts()
        coherent = self._rate(counts.coherent, counts.judged, counts)
        evaluation = Evaluation(checkpoint, decision.em_rate, coherent, task_score, decision)
        state = json.dumps(detector.to_dict())
        self.store.write("evaluations", key, [evaluation_row(evaluation, broad_key, task_key, state)])
        return evaluation

    def _look_at_base(self, base: Checkpoint) -> None:
        """What random prompts show of the base model, if the sequential rule compares with it."""
        if self.detector is None or self.detector.state.settings.margin is None:
            return
        size = _BASE_LOOKS * len(self.broad.prompts)
        draws = RandomPrompts(self.sampler, base, self.broad, size)
        misaligned, coherent, _ = draws(size)
        self.detector.observe_base(misaligned, coherent, size)

    def _fewest(self) -> int:
        """Answers to sample at once at first: what a clean checkpoint needs, as far as that is known beforehand."""
        rule = self.stopping.sequential
        assert rule is not None  # it asks for draws
        base = 0.0 if self.base is None or np.isnan(self.base.value) else self.base.value
        boundary = self.stopping.tolerance if rule.margin is None else min(max(base + rule.margin, 0.01), 0.5)
        return draws_to_clear(boundary, rule.beta)

    def _rate(self, successes: Any, trials: Any, counts: Counts) -> Estimate:
        missing = int(counts.missing.sum())
        return clustered_rate(successes, trials, n_missing=missing, confidence=self.stopping.confidence)

    def _stored(self, key: str, step: int, em_rate: Estimate) -> Decision | None:
        """The decision of the time, if there was one."""
        if not self.store.has("evaluations", key):
            return None
        row = self.store.read("evaluations", key)[0]
        return Decision(Action(row["decision"]), step, row["reason"], em_rate)

    def _key(self, checkpoint: Checkpoint, broad_key: str, task_key: str | None) -> str:
        thresholds = self.evaluation.model_dump(include={"aligned_below", "coherent_above"})
        settings = {**thresholds, **self.stopping.model_dump(exclude={"mode", "floor"})}
        return content_key("evaluation", checkpoint.run_id, checkpoint.step, broad_key, task_key, settings)


def _detector(stopping: StoppingConfig) -> SequentialDetector | None:
    if stopping.sequential is None:
        return None
    return SequentialDetector(DetectorSettings(tolerance=stopping.tolerance, **stopping.sequential.model_dump()))


def evaluation_row(
    evaluation: Evaluation, broad_key: str, task_key: str | None, detector: str | None
) -> dict[str, Any]:
    """The row of the store's `evaluations`, from the keys of its judgments and the detector's state as JSON."""
    checkpoint, decision = evaluation.checkpoint, evaluation.decision
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
        "detector": detector,
    }
