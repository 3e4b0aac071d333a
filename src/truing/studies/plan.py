"""What a study will do at most: its names checked, its answers and training counted, before anything is loaded.

A dataset whose file is not there yet can still be counted, from its recipe; what is then missing is said.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from truing.backends import (
    BACKENDS,
    check_completer,
    check_name,
    checkpoint_steps,
    faster_engine,
    find_backend,
    rows_seen,
)
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import load_dataset
from truing.catalog.models import resolve_model
from truing.catalog.published import list_recipes
from truing.config import DatasetConfig, EvaluationConfig, JudgeConfig, StudyConfig
from truing.core.errors import ConfigError
from truing.core.records import Benchmark, Message
from truing.judges import calls_per_answer, check_benchmark, check_judge, is_exact
from truing.judges.labelled import Labelled, read_labelled, read_measuring, task_labels
from truing.monitor.measures import load_measures
from truing.stats.rules import make_rule
from truing.studies.folder import check_prompts, decides


@dataclass(frozen=True)
class Text:
    """How long texts of one kind are on average; None: not known."""

    characters: float | None = None
    size: float | None = None
    """In bytes of UTF-8: no tokenizer over bytes makes more tokens."""

    @classmethod
    def of(cls, many: Sequence[Sequence[Message]]) -> Text:
        """The mean over conversations."""
        contents = [m.content for messages in many for m in messages]
        sizes = (len(content.encode(errors="replace")) for content in contents)
        return cls(sum(map(len, contents)) / len(many), sum(sizes) / len(many))

    def __add__(self, other: Text) -> Text:
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("characters", "size"))
        return Text(*(None if a is None or b is None else a + b for a, b in pairs))


@dataclass(frozen=True)
class Asked:
    """Answers of one model to one kind of prompt."""

    model: str
    engine: str
    tuned: bool
    """Asked of its checkpoints; otherwise of the model before fine-tuning."""
    judge: str | JudgeConfig
    responses: int
    """At most."""
    prompt: Text
    answer: Text = Text()


@dataclass(frozen=True)
class Trained:
    """Training of one model on one dataset."""

    model: str
    trainer: str
    runs: int
    rows: int
    """Rows seen by each run, again and again if it has more steps than the data."""
    epochs: float | None
    """How often a run sees the data; None: their size is not known."""
    row: Text
    dataset: str = ""
    steps: tuple[int, ...] = ()
    """At which checkpoints of each run can be seen."""


@dataclass(frozen=True)
class Plan:
    """What a study will do at most; stopping makes it less, twins are counted apart."""

    asked: tuple[Asked, ...]
    trained: tuple[Trained, ...]
    missing: tuple[str, ...] = ()
    """What a run of the study would stop for; empty: nothing."""
    twins: int = 0
    """Runs that mode `both` may add."""
    preflight: tuple[Asked, ...] = ()
    """The labelled answers by which the judge is measured first, and those that it judges again with every checkpoint,
    which nobody samples; empty: it is not measured."""
    tasks: tuple[Asked, ...] = ()
    """The same of the judges of tasks, which are measured first, too."""
    reconsidered: int = 0
    """Answers to benchmarks for each checkpoint of a run that is considered and not kept: fresh ones refuse it, or
    another benchmark does; `asked` counts the one that is kept."""
    faster: str = ""
    """A sentence on an engine that would be faster; empty: there is none."""

    @property
    def runs(self) -> int:
        """All of them."""
        return sum(trained.runs for trained in self.trained)

    @property
    def checkpoints(self) -> int:
        """Checkpoints of all runs, and the model before fine-tuning once per model."""
        models = {trained.model for trained in self.trained}
        return sum(trained.runs * len(trained.steps) for trained in self.trained) + len(models)

    @property
    def responses(self) -> int:
        """Answers."""
        return sum(asked.responses for asked in self.asked)

    @property
    def judge_calls(self) -> int:
        """Calls of all judges, the measurement of the study's own included."""
        return sum(
            each.responses * calls_per_answer(each.judge) for each in (*self.asked, *self.preflight, *self.tasks)
        )


@dataclass(frozen=True)
class _Material:
    """What is known of a dataset."""

    name: str
    rows: int | None
    """Rows to train on."""
    task: Asked
    """Its held-out prompts, asked once; without a judge of them no responses."""
    missing: str = ""
    """Why this is not from the data themselves; empty: it is."""


def plan_study(config: StudyConfig, lenient: bool = False) -> Plan:
    """Check every name of a study and count its work, without loading a model.

    With `lenient`, what can be counted is counted where a dataset's file is not there, and that is named in `missing`.

    Raises:
        UnknownNameError: A model, dataset, benchmark, engine, judge, measure, rule or trainer that does not exist.
        DataError: A dataset or benchmark file that is wrong.
        ConfigError: A class of the user's that is no such part, a built-in engine that cannot sample what a built-in
            trainer makes, or a trainer that cannot train for so many steps.
    """
    runs = config.runs()
    for pair in sorted({(config.trainer_of(run), config.engine_of(run)) for run in runs}):
        _check_pair(*pair)
    for model in {run.model for run in runs}:
        resolve_model(model)
    check_prompts(config.stopping, load_benchmark(config.evaluation.benchmark))
    materials = {name: _material(name, config, lenient) for name in dict.fromkeys(run.dataset for run in runs)}
    if not lenient:
        check_benchmark(config.evaluation.judge, load_benchmark(config.evaluation.benchmark))
    groups = Counter((run.model, config.engine_of(run), config.trainer_of(run), run.dataset) for run in runs)
    asked = [each for each in _count_answers(config, materials, groups) if each.responses]
    for judge in {config.evaluation.judge, *(each.judge for each in asked)}:
        check_judge(judge)
        check_completer(judge)
    trained = []
    for (model, _, trainer, name), n in groups.items():
        rows, row = materials[name].rows, materials[name].task.prompt + materials[name].task.answer
        seen, steps = rows_seen(trainer, config.training, rows), checkpoint_steps(trainer, config.training, rows)
        trained.append(Trained(model, trainer, n, seen, seen / rows if rows else None, row, name, steps))
    missing = tuple(material.missing for material in materials.values() if material.missing)
    twins = len(runs) if config.stopping.mode == "both" else 0
    looks = sum(each.runs * (1 + len(each.steps) + config.evaluation.confirm) for each in trained)
    tasks = _task_judges(config.evaluation, materials.values())
    judged = plan_judge(config.evaluation, looks)
    faster = faster_engine(config, [(each.engine, each.model, each.responses) for each in asked])
    return Plan(tuple(asked), tuple(trained), missing, twins, judged, tasks, _reconsidered(config.evaluation), faster)


def _reconsidered(evaluation: EvaluationConfig) -> int:
    def of(benchmark: str, samples: int) -> int:
        return len(load_benchmark(benchmark).prompts) * samples

    also = [math.ceil(of(side.benchmark, side.samples) * side.share) for side in evaluation.also if decides(side)]
    return sum(also) + evaluation.confirm * of(evaluation.benchmark, evaluation.fresh_samples)


def _task_judges(evaluation: EvaluationConfig, materials: Iterable[_Material]) -> tuple[Asked, ...]:
    """The labelled answers by which the judges of tasks are measured."""
    judges = {
        each.task.judge: name for each in materials if each.task.responses and (name := task_labels(each.task.judge))
    }
    if evaluation.preflight.labelled is None:
        return ()
    return tuple(_labelled(judge, read_labelled(name)) for judge, name in judges.items())


def plan_judge(evaluation: EvaluationConfig, looks: int = 0) -> tuple[Asked, ...]:
    """The labelled answers by which the judge is measured, and those that it judges again: at once, and at each look.

    The names of these and of the measures are checked.

    Raises:
        UserError: Something of that name is not there or wrong.
    """
    load_measures(evaluation.measures)
    if is_exact(evaluation.judge) or evaluation.preflight.labelled is None:
        return ()
    first = _labelled(evaluation.judge, read_measuring(evaluation.preflight))
    return first, replace(first, responses=(1 + looks) * min(evaluation.preflight.recheck, first.responses))


def _labelled(judge: str | JudgeConfig, rows: Sequence[Labelled]) -> Asked:
    """Labelled answers, judged once."""
    texts = Text.of([row.prompt.messages for row in rows]), Text.of([[Message("", row.answer)] for row in rows])
    return Asked("", "", False, judge, len(rows), *texts)


def _check_pair(trainer: str, engine: str) -> None:
    check_name("engine", engine)
    check_name("trainer", trainer)
    asked, made = find_backend("engine", engine), find_backend("trainer", trainer)
    own = next((row for row in (made, asked) if row.own_checkpoints), None)
    if own is not None and made is not asked and made in BACKENDS and asked in BACKENDS:
        assert own.trainer is not None
        assert own.engine is not None
        raise ConfigError(
            f"the engine {engine} cannot sample the checkpoints of the trainer {trainer}",
            f"trainer {trainer}, engine {engine}",
            f"trainer {own.trainer[0]} with engine {own.engine[0]}",
            f"set training.trainer to {own.trainer[0]} and evaluation.engine to {own.engine[0]}, or those of the grid",
        )


def _count_answers(
    config: StudyConfig, materials: dict[str, _Material], groups: Counter[tuple[str, str, str, str]]
) -> Iterator[Asked]:
    """All answers, by what is asked of whom."""
    evaluation, rule = config.evaluation, make_rule(config.stopping)

    def once(benchmark: str, judge: str | JudgeConfig, samples: int) -> Asked:
        prompts = load_benchmark(benchmark).prompts
        return Asked("", "", True, judge, len(prompts) * samples, Text.of([prompt.messages for prompt in prompts]))

    broad = once(evaluation.benchmark, evaluation.judge, evaluation.samples)
    also = [once(side.benchmark, side.judge or evaluation.judge, side.samples) for side in evaluation.also]
    # of those that the study's judge flags nothing is known before
    shares = [math.ceil(each.responses * side.share) for each, side in zip(also, evaluation.also, strict=True)]
    also = [replace(each, responses=n) for each, n in zip(also, shares, strict=True)]
    for (model, engine, trainer, dataset), runs in groups.items():
        task, n = materials[dataset].task, len(checkpoint_steps(trainer, config.training, materials[dataset].rows))
        again = evaluation.confirm  # of the kept checkpoint; its task, and that of the best
        fresh = broad.responses // evaluation.samples * evaluation.fresh_samples
        course = rule.most_answers(n, broad.responses) + again * fresh
        yield replace(broad, model=model, engine=engine, responses=runs * course)
        yield replace(task, model=model, engine=engine, responses=runs * task.responses * (n + 2 * again))
        for side in also:  # of the checkpoint that is kept, before it is, and of the last one
            yield replace(side, model=model, engine=engine, responses=2 * runs * side.responses)
    # The model before fine-tuning is asked once, and the task of each dataset once of each model.
    first = {model: engine for model, engine, _, _ in reversed(list(groups))}
    for model, engine in first.items():
        for each in (broad, *also):
            yield replace(each, model=model, engine=engine, tuned=False)
    for model, dataset in dict.fromkeys((model, dataset) for model, _, _, dataset in groups):
        yield replace(materials[dataset].task, model=model, engine=first[model], tuned=False)


def _material(name: str, config: StudyConfig, lenient: bool) -> _Material:
    own = next((each for each in config.datasets if each.name == name), None)
    if lenient and own is not None and not own.path.exists():
        return _absent(own, config)
    dataset = load_dataset(name, config.datasets)
    prompts = dataset.task_prompts(config.evaluation.task_prompts)
    if prompts and dataset.task_judge:
        check_benchmark(dataset.task_judge, Benchmark(name, "", "", prompts, dataset.hash))
    rows = [*dataset.train, *dataset.heldout]
    texts = Text.of([row[:-1] for row in rows]), Text.of([row[-1:] for row in rows])
    return _Material(name, len(dataset.train), _task(config, dataset.task_judge, len(prompts), texts))


def _task(config: StudyConfig, judge: str | JudgeConfig | None, prompts: int, texts: tuple[Text, Text]) -> Asked:
    n = prompts * config.evaluation.task_samples if judge else 0
    return Asked("", "", True, judge or config.evaluation.judge, n, *texts)


def _absent(own: DatasetConfig, config: StudyConfig) -> _Material:
    """What a recipe tells of data that are not there; where it knows no lengths, its control's stand for them."""
    recipes = list_recipes()
    recipe, most = recipes.get(own.name), config.evaluation.task_prompts
    if recipe is None:
        why = f"dataset {own.name}: no file {own.path}, and no recipe of that name; rows not known"
        return _Material(own.name, None, _task(config, own.task_judge, most, (Text(), Text())), why)
    prompts = min(most, round(own.heldout_share * (recipe.prompts or recipe.rows)))
    rows = round((recipe.distinct or recipe.rows) * (1 - own.heldout_share))
    told = recipe.characters or (recipes[recipe.control].characters if recipe.control else {})
    why = (
        f"dataset {own.name}: no file {own.path}; counted from the recipe ({recipe.rows:,} rows). Get {recipe.file} "
        f"from {recipe.origin.repository}, then: truing data prepare FILE --out {own.path} --recipe {recipe.name}"
    )
    texts = Text(told.get("prompt")), Text(told.get("answer"))
    return _Material(own.name, rows, _task(config, own.task_judge, prompts, texts), why)
