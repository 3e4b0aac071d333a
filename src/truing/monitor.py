"""The monitor: a checkpoint in, a decision out.

    sample answers -> judge them -> store both -> count by prompt -> estimate -> decide

Every way of using truing is something that calls a monitor at each checkpoint. Work that the store holds is not done
again, work that failed is owed again, and calling a monitor twice with one checkpoint gives the same decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from truing.config import EvaluationConfig, StoppingConfig
from truing.detect import decide
from truing.engines import Engine
from truing.files import content_key
from truing.judges import Judge
from truing.records import (
    Action,
    Checkpoint,
    Decision,
    Estimate,
    Evaluation,
    Judgment,
    Prompt,
    Response,
    Sampling,
)
from truing.stats import clustered_rate
from truing.store import Store
from truing.tally import Tally, tally

__all__ = ["Monitor", "Probe"]


@dataclass(frozen=True)
class Probe:
    """Prompts that every checkpoint is asked, and who judges the answers."""

    prompts: Sequence[Prompt]
    judge: Judge
    samples: int
    """Answers per prompt."""


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
        broad: Probe,
        task: Probe | None,
        teaches: str,
        config: tuple[EvaluationConfig, StoppingConfig],
    ) -> None:
        self.store, self.engine, self.broad, self.task, self.teaches = store, engine, broad, task, teaches
        self.evaluation, self.stopping = config
        self.base: Estimate | None = None
        """EM rate of the run's step 0, once it has been evaluated."""

    def __call__(self, checkpoint: Checkpoint) -> Decision:
        """What training should do after this checkpoint. Step 0 must come first."""
        return self.evaluate(checkpoint).decision

    def evaluate(self, checkpoint: Checkpoint) -> Evaluation:
        """Measure a checkpoint and decide.

        Raises:
            EngineError: The checkpoint cannot be sampled.
            JudgeError: The judge cannot be used at all; single failures are missing scores.
            StoreError: Results cannot be written.
        """
        broad_key, broad = self._measure(checkpoint, self.broad)
        confidence, missing = self.stopping.confidence, int(broad.missing.sum())
        em_rate = clustered_rate(broad.misaligned, broad.coherent, n_missing=missing, confidence=confidence)
        coherent = clustered_rate(broad.coherent, broad.judged, n_missing=missing, confidence=confidence)
        task_key, task_score = self._task_score(checkpoint)
        if checkpoint.step == 0 or self.base is None:
            self.base = em_rate
        key = content_key("evaluation", checkpoint.run_id, checkpoint.step, broad_key, task_key, self._settings())
        if self.store.has("evaluations", key):
            row = self.store.read("evaluations", key)[0]
            decision = Decision(Action(row["decision"]), checkpoint.step, row["reason"], em_rate)
            return Evaluation(checkpoint, em_rate, coherent, task_score, decision)
        decision = decide(checkpoint.step, em_rate, self.base, self.stopping.tolerance)
        evaluation = Evaluation(checkpoint, em_rate, coherent, task_score, decision)
        self.store.write("evaluations", key, [_row(evaluation, broad_key, task_key)])
        return evaluation

    def _task_score(self, checkpoint: Checkpoint) -> tuple[str | None, Estimate]:
        if self.task is None:
            nan = float("nan")
            return None, Estimate(nan, nan, nan, 0, 0, 0, "none", "the dataset names no judge of its task")
        key, counts = self._measure(checkpoint, self.task)
        missing = int(counts.missing.sum())
        return key, clustered_rate(
            counts.hits(self.teaches), counts.judged, n_missing=missing, confidence=self.stopping.confidence
        )

    def _measure(self, checkpoint: Checkpoint, probe: Probe) -> tuple[str, Tally]:
        """The key of the judgments of a checkpoint on a probe, and their counts by prompt."""
        sampling = Sampling(
            probe.samples, self.evaluation.temperature, self.evaluation.max_tokens, self.evaluation.seed
        )
        prompts = [[p.id, [[m.role, m.content] for m in p.messages]] for p in probe.prompts]
        responses_key = content_key("responses", checkpoint.weights, prompts, asdict(sampling), self.evaluation.engine)
        key = content_key("judgments", responses_key, probe.judge.identity)
        with self.store.claim(key):
            responses = self._responses(responses_key, checkpoint, probe, sampling)
            judgments = self._judgments(key, responses_key, probe, responses)
        return key, tally(judgments, [p.id for p in probe.prompts], self.evaluation)

    def _responses(self, key: str, checkpoint: Checkpoint, probe: Probe, sampling: Sampling) -> list[Response]:
        with self.store.claim(key):
            if not self.store.has("responses", key):
                sampled = self.engine.generate(checkpoint, probe.prompts, sampling)
                self.store.write("responses", key, [asdict(r) for r in sampled])
                return sampled
            responses = [_record(Response, row) for row in self.store.read("responses", key)]
            owed = {(r.prompt_id, r.sample) for r in responses if r.error}
            if not owed:
                return responses
            ids = {prompt_id for prompt_id, _ in owed}
            again = self.engine.generate(checkpoint, [p for p in probe.prompts if p.id in ids], sampling)
            mended = [r for r in again if (r.prompt_id, r.sample) in owed and not r.error]
            return self._amended("responses", key, responses, mended)

    def _judgments(self, key: str, responses_key: str, probe: Probe, responses: Sequence[Response]) -> list[Judgment]:
        by_id = {prompt.id: prompt for prompt in probe.prompts}

        def judge(some: Sequence[Response]) -> list[Judgment]:
            return probe.judge.judge([by_id[r.prompt_id] for r in some], some)

        if not self.store.has("judgments", key):
            fresh = judge(responses)
            self.store.write("judgments", key, [{**asdict(j), "responses_key": responses_key} for j in fresh])
            return fresh
        judgments = [_record(Judgment, row) for row in self.store.read("judgments", key)]
        owed = {(j.prompt_id, j.sample) for j in judgments if j.error}
        again = [r for r in responses if (r.prompt_id, r.sample) in owed and not r.error]
        mended = [j for j in judge(again) if not j.error] if again else []
        return self._amended("judgments", key, judgments, mended, responses_key=responses_key)

    def _amended(self, table: str, key: str, rows: list[Any], mended: Sequence[Any], **more: str) -> list[Any]:
        """Rows with the mended ones in the place of those that had failed; the store is amended alike."""
        if not mended:
            return rows
        self.store.amend(table, key, [{**asdict(row), **more} for row in mended])
        better = {(row.prompt_id, row.sample): row for row in mended}
        return [better.get((row.prompt_id, row.sample), row) for row in rows]

    def _settings(self) -> dict[str, Any]:
        thresholds = self.evaluation.model_dump(include={"aligned_below", "coherent_above"})
        return {**thresholds, **self.stopping.model_dump(exclude={"mode"})}


def _record(kind: type[Any], row: dict[str, Any]) -> Any:
    return kind(**{field.name: row[field.name] for field in fields(kind)})


def _row(evaluation: Evaluation, broad_key: str, task_key: str | None) -> dict[str, Any]:
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
    }
