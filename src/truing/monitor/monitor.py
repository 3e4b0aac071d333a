"""The monitor: a checkpoint in, a decision out.

    sample answers -> judge them -> store both -> count by prompt -> estimate -> decide

Every way of using truing is something that calls a monitor at each checkpoint. A stopping rule says what is asked, of
every prompt or of random ones, and decides. Work that the store holds is not done again, work that failed is owed
again, and calling a monitor twice with one checkpoint gives the same decision.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from truing.backends import Engine
from truing.config import EvaluationConfig, StoppingConfig
from truing.core.files import content_key
from truing.core.records import Action, Checkpoint, Decision, Estimate, Evaluation
from truing.monitor.sampler import FIXED, FRESH, RANDOM, PromptSet, RandomPrompts, Sampler
from truing.monitor.store import Store
from truing.stats import Counts, FixedRule, make_rule

__all__ = ["Monitor"]


class Monitor:
    """Evaluates the checkpoints of one run and decides whether training should go on.

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
        self.sampler = Sampler(store, engine, self.evaluation)
        self.base: Estimate | None = None
        """EM rate of the run's step 0, once it has been evaluated; without it the tolerance alone decides."""
        self.rule = make_rule(self.stopping)
        """Decides on every checkpoint but the base, which is asked every prompt whatever the rule."""

    def __call__(self, checkpoint: Checkpoint) -> Decision:
        """Decide what training should do after this checkpoint. Step 0 comes first if there is one."""
        return self.evaluate(checkpoint).decision

    def evaluate(self, checkpoint: Checkpoint) -> Evaluation:
        """Measure a checkpoint and decide. If it fails, the rule stands where it stood before.

        Raises:
            EngineError: The checkpoint cannot be sampled.
            JudgeError: The judge cannot be used at all; single failures are missing scores.
            StoreError: Results cannot be written.
        """
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

    def confirm(self, chosen: Checkpoint | None, best: Checkpoint | None) -> None:
        """Measure what a run keeps by fresh answers, which had no part in choosing it, and store that.

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
            "benchmark_judgments": fresh(chosen, self.broad),
            "task_judgments": fresh(chosen, self.task),
            "best_judgments": fresh(best, self.task),
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

    def prefetch(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Let an engine that can answer for many checkpoints at once do so, as far as the answers are known before."""
        for prompt_set in self._known_before():
            self.sampler.prefetch(checkpoints, prompt_set)

    def sample(self, checkpoint: Checkpoint) -> None:
        """Sample and store the answers that an evaluation will ask for, as far as they are known before."""
        for prompt_set in self._known_before():
            self.sampler.sampled(checkpoint, prompt_set, prompt_set.every_pair(FIXED), FIXED)

    def is_sampled(self, checkpoint: Checkpoint) -> bool:
        """Whether all answers that an evaluation will ask for are stored, so that it needs no weights."""
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
        asked = _Asked(self.sampler, checkpoint, self.broad)
        key = self._key(checkpoint)
        if checkpoint.step == 0:
            self.base = rule.rate(asked.every_prompt())
            self.rule.see_base(self.base, _Asked(self.sampler, checkpoint, self.broad))
        if self.store.has("evaluations", key):
            row = self.store.read("evaluations", key)[0]
            rule.restore(json.loads(row["detector"]) if row["detector"] else None)
            em_rate = rule.rate(asked.again(self._kind(checkpoint)))
            decision = Decision(Action(row["decision"]), checkpoint.step, row["reason"], em_rate)
        else:
            decision = rule.decide(checkpoint.step, self.base, asked)
        coherent_rate = asked.counts().coherent_rate(self.stopping.confidence)
        _, task_score = self.task_score(checkpoint)
        evaluation = Evaluation(checkpoint, decision.em_rate, coherent_rate, task_score, decision)
        state = None if rule.state is None else json.dumps(rule.state)
        self.store.write("evaluations", key, [self.row(evaluation) | {"detector": state}])
        return evaluation

    def _known_before(self) -> list[PromptSet]:
        """What is asked of every checkpoint, whatever its answers are."""
        broad = self.broad if self.rule.every_prompt else None
        return [prompt_set for prompt_set in (broad, self.task) if prompt_set is not None]

    def _kind(self, checkpoint: Checkpoint) -> int:
        """Which answers to the benchmark a checkpoint is evaluated by."""
        return FIXED if checkpoint.step == 0 or self.rule.every_prompt else RANDOM

    def _judgments(self, checkpoint: Checkpoint) -> tuple[str, str | None]:
        """The keys of a checkpoint's judgments, of the benchmark and of the task."""
        broad = self.sampler.keys(checkpoint, self.broad, self._kind(checkpoint))[1]
        return broad, None if self.task is None else self.sampler.keys(checkpoint, self.task, FIXED)[1]

    def _key(self, checkpoint: Checkpoint) -> str:
        thresholds = self.evaluation.model_dump(include={"aligned_below", "coherent_above"})
        settings = {**thresholds, **self.stopping.model_dump(exclude={"mode", "floor"})}
        return content_key("evaluation", checkpoint.run_id, checkpoint.step, *self._judgments(checkpoint), settings)


class _Asked:
    """The answers of one checkpoint to the benchmark, for a rule; see `truing.stats.Answers`."""

    def __init__(self, sampler: Sampler, checkpoint: Checkpoint, broad: PromptSet) -> None:
        self.sampler, self.checkpoint, self.broad = sampler, checkpoint, broad
        self._every: Counts | None = None
        self._random: RandomPrompts | None = None

    @property
    def n_prompts(self) -> int:
        return len(self.broad.prompts)

    def every_prompt(self) -> Counts:
        if self._every is None:
            self._every = self.sampler.measure(self.checkpoint, self.broad)[1]
        return self._every

    def random_prompts(self, size: int, ahead: int = 0) -> tuple[int, int, int]:
        if self._random is None:
            self._random = RandomPrompts(self.sampler, self.checkpoint, self.broad, ahead)
        return self._random(size)

    def counts(self) -> Counts:
        """Counts of all that was asked."""
        return self.every_prompt() if self._random is None else self._random.counts()

    def again(self, kind: int) -> Counts:
        """Counts of all that was asked of the checkpoint once; what had failed is asked again."""
        if kind == RANDOM:
            self._every = self.sampler.judge_again(self.checkpoint, self.broad, RANDOM)
        return self.every_prompt()
