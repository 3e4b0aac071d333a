"""A study as Inspect's logs: one `.eval` file per evaluated checkpoint and benchmark, which `inspect view` opens.

Each answer is a sample of the prompt's id; its index is the epoch. An answer that failed is a sample with an error, and
a score that is missing is NaN, so the log's figures are those of the study's analysis.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from inspect_ai import log as inspect
from inspect_ai.model import ChatMessageAssistant, GenerateConfig, ModelOutput, ModelUsage

from truing import __version__
from truing.backends.inspect.completer import to_chat
from truing.core.files import content_key, replacing
from truing.integrations.inspect.metrics import SCORER, describe_metrics, to_score
from truing.monitor.sampler import FRESH
from truing.results.answers import JudgedAnswer, JudgedCheckpoint, judged_checkpoints, read_manifest
from truing.studies.folder import Manifest


def write_logs(folder: Path, target: Path) -> list[Path]:
    """Write the judged answers of a folder as logs into another; the files, by run, step and benchmark.

    Raises:
        StoreError: Nothing has been evaluated, or a file cannot be written.
    """
    exporter = _Exporter(read_manifest(folder))
    files = []
    for checkpoint in judged_checkpoints(folder, sides=True):
        name = re.sub(r"[^\w.+-]", "_", checkpoint.label)
        path = target / f"{checkpoint.run.id}__step{checkpoint.step:06d}__{name}.eval"
        with replacing(path) as temporary:
            inspect.write_eval_log(exporter.log(checkpoint), temporary, format="eval")
        files.append(path)
    return files


class _Exporter:
    """Makes logs of a folder's checkpoints."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        evaluation = manifest.evaluation
        self.sampling = GenerateConfig(
            temperature=evaluation.temperature, max_tokens=evaluation.max_tokens, seed=evaluation.seed
        )

    def log(self, checkpoint: JudgedCheckpoint) -> inspect.EvalLog:
        """The log of one checkpoint, with its figures."""
        when = checkpoint.judged_at.isoformat(timespec="seconds")
        log = inspect.EvalLog(
            status="success",
            eval=self._spec(checkpoint, when),
            plan=inspect.EvalPlan(steps=[inspect.EvalPlanStep(solver="generate")], config=self.sampling),
            stats=inspect.EvalStats(started_at=when, completed_at=when),
            samples=[self._sample(checkpoint, answer) for answer in checkpoint.answers],
        )
        inspect.recompute_metrics(log)
        return log

    def _spec(self, checkpoint: JudgedCheckpoint, when: str) -> inspect.EvalSpec:
        run, step, found = checkpoint.run, checkpoint.step, checkpoint.asked.benchmark
        evaluation, study_hash = self.manifest.evaluation, self.manifest.hash
        about = {"run": run.id, "step": step, "weights": checkpoint.weights}
        setting = {"dataset": run.dataset, "learning_rate": run.learning_rate, "seed": run.seed}
        ids = list(dict.fromkeys(answer.prompt.id for answer in checkpoint.answers))
        return inspect.EvalSpec(
            eval_id=content_key("eval", run.id, step, checkpoint.key)[:22],
            run_id=study_hash[:22],
            task_id=content_key("task", run.id, step, found.name)[:22],  # logs of one task are retries of one another
            created=when,
            task=found.name,
            task_version=found.version or 0,
            task_display_name=f"{found.name}, {run.id}, step {step}",
            task_args={"step": step, **setting},
            tags=[f"step {step}", run.id],
            dataset=inspect.EvalDataset(name=found.name, samples=len(ids), sample_ids=ids),
            model=run.model,
            model_args=about,
            model_generate_config=self.sampling,
            config=inspect.EvalConfig(epochs=max((_epoch(a) for a in checkpoint.answers), default=1)),
            packages={"truing": __version__},
            metadata={
                **about,
                **setting,
                "study": self.manifest.name,
                "study_hash": study_hash,
                "benchmark_hash": found.hash,
                "judge": checkpoint.asked.judge,
                "judgments": checkpoint.key,
                **evaluation.thresholds(),
            },
            scorers=[describe_metrics()],
            headline_metric=inspect.HeadlineMetric(metric="em_rate"),
        )

    def _sample(self, checkpoint: JudgedCheckpoint, answer: JudgedAnswer) -> inspect.EvalSample:
        prompt, response = answer.prompt, answer.response
        asked = [to_chat(message) for message in prompt.messages]
        more: dict[str, Any] = {"output": ModelOutput(model=checkpoint.run.model), "messages": asked}
        if response.text is not None:
            stop = "stop" if response.finished else "max_tokens"
            output = ModelOutput.from_content(checkpoint.run.model, response.text, stop_reason=stop)
            output.usage = ModelUsage(output_tokens=response.n_tokens, total_tokens=response.n_tokens)
            more = {"output": output, "messages": [*asked, ChatMessageAssistant(content=response.text)]}
        if why := response.error:
            more["error"] = inspect.EvalError(message=why, traceback=why, traceback_ansi=why)
        return inspect.EvalSample(
            id=prompt.id,
            epoch=_epoch(answer),
            input=asked,
            target="",
            scores={SCORER: to_score(answer.judgment, response, self.manifest.evaluation)},
            metadata={"category": prompt.category, "form": prompt.form, "sample": response.sample},
            uuid=content_key(checkpoint.key, checkpoint.run.id, prompt.id, response.sample)[:22],
            **more,
        )


def _epoch(answer: JudgedAnswer) -> int:
    """Number of the answer among those to its prompt, from 1; the kinds of answers count from far apart."""
    return answer.response.sample % FRESH + 1
