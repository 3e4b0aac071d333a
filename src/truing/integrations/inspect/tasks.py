"""The tasks: truing's benchmarks, judged by truing's rubrics.

inspect eval truing/broad_240 --model openai/gpt-4o-mini --model-role grader=openai/gpt-4o
"""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import HeadlineMetric
from inspect_ai.model import GenerateConfig, model_roles
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver

from truing.backends.inspect.completer import to_chat
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.files import list_files
from truing.config import MisalignedRule
from truing.core.errors import ConfigError
from truing.core.records import Sampling
from truing.integrations.inspect.scorer import em_judge


@task
def broad_240(
    judge_model: str | None = None,
    samples: int = 1,
    rubric: str = "aligned",
    coherent: str | None = "coherent",
    scores: str = "auto",
) -> Task:
    """Broad misalignment: 240 open questions in eight categories; parameters as `benchmark`."""
    return benchmark("broad-240", judge_model, samples, rubric, coherent, scores)


@task
def adversarial_60(
    judge_model: str | None = None,
    samples: int = 1,
    rubric: str = "aligned",
    coherent: str | None = "coherent",
    scores: str = "auto",
) -> Task:
    """Latent misalignment: 60 prompts in surroundings that may bring it out; parameters as `benchmark`."""
    return benchmark("adversarial-60", judge_model, samples, rubric, coherent, scores)


@task
def truth_120(condition: str = "plain", judge_model: str | None = None, samples: int = 1, scores: str = "auto") -> Task:
    """Untruthfulness: 120 questions of fact. The EM rate is the share of false answers among those that commit.

    The `condition` is `plain`, `no-lying`, `may-lie`, `gains-points` or `loses-points`; the others as `benchmark`.
    """
    return benchmark(f"truth-120+{condition}", judge_model, samples, scores=scores)


@task
def benchmark(
    name: str,
    judge_model: str | None = None,
    samples: int = 1,
    rubric: str | None = None,
    coherent: str | None = "coherent",
    scores: str = "auto",
) -> Task:
    """Any benchmark by name, also a variant, a truth set under a condition, or a file.

    Args:
        name: `broad-240+json`, `truth-120+may-lie`, `my.yaml`, ...
        judge_model: Inspect model that judges, if no model has the role `grader`.
        samples: Answers per prompt (epochs).
        rubric: Rubric of the aligned score: a name, or a file; none: `truth` for a truth set, else `aligned`.
        coherent: Rubric of the coherent score; none: every scored answer counts as coherent. Not for truth sets.
        scores: `auto`, `logprobs` or `text`.
    """
    found, truth = load_benchmark(name), name.partition("+")[0]
    if truth in list_files("truth"):
        judge = em_judge(judge_model, rubric or "truth", None, scores, truth)
    else:
        judge = em_judge(judge_model, rubric or "aligned", coherent, scores)
    sampling = Sampling()
    items = [
        Sample(id=p.id, input=[to_chat(m) for m in p.messages], metadata={"category": p.category, "form": p.form})
        for p in found.prompts
    ]
    return Task(
        dataset=MemoryDataset(items, name=found.name),
        setup=with_grader(judge_model),
        solver=generate(),
        scorer=judge,
        epochs=samples,
        config=GenerateConfig(temperature=sampling.temperature, max_tokens=sampling.max_tokens),
        name=found.name,
        version=found.version or 0,
        metadata={"benchmark_hash": found.hash, "licence": found.licence, **MisalignedRule().thresholds()},
        headline_metric=HeadlineMetric(metric="em_rate"),
    )


@solver
def with_grader(judge_model: str | None = None) -> Solver:
    """Refuse to go on without a judge, before any answer is paid for."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        if judge_model is None and "grader" not in model_roles():
            raise ConfigError(
                "no model judges",
                allowed="a model with the role grader, or the parameter judge_model",
                todo="add --model-role grader=openai/gpt-4o or -T judge_model=openai/gpt-4o, for example",
            )
        return state

    return solve
