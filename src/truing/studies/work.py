"""What a study asks of models and of training, before anything is loaded: which answers, how many, to what.

A dataset whose file is not there yet can still be counted, from its recipe; what is then missing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from truing.backends import checkpoint_steps, rows_seen
from truing.catalog.benchmarks import load_benchmark
from truing.catalog.datasets import load_dataset
from truing.catalog.published import list_recipes
from truing.config import DatasetConfig, JudgeConfig, StudyConfig
from truing.core.records import Message, Prompt
from truing.stats.rules import make_rule

__all__ = ["Asked", "Material", "Text", "Trained", "Work", "plan_work"]


@dataclass(frozen=True)
class Text:
    """How long texts of one kind are on average; None: not known."""

    characters: float | None = None
    size: float | None = None
    """In bytes of UTF-8: no tokenizer over bytes makes more tokens."""


@dataclass(frozen=True)
class Material:
    """What is known of a dataset."""

    name: str
    rows: int | None
    """Rows to train on."""
    task_prompts: int
    """Held-out prompts that measure the task; 0 without a judge of it."""
    task_judge: str | JudgeConfig | None
    prompt: Text
    answer: Text
    missing: str = ""
    """Why this is not from the data themselves; empty: it is."""


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
    answer: Text


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
class Work:
    """All that a study asks for, at most."""

    asked: tuple[Asked, ...]
    trained: tuple[Trained, ...]
    missing: tuple[str, ...]
    """What a run of the study would stop for; empty: nothing."""


@dataclass(frozen=True)
class _PromptSet:
    judge: str | JudgeConfig
    responses: int
    prompt: Text


def plan_work(config: StudyConfig, lenient: bool = False) -> Work:
    """Count the answers and the training of a study.

    Args:
        config: The study.
        lenient: Go on where a dataset's file is not there, from its recipe as far as there is one.

    Raises:
        UnknownNameError: A dataset or benchmark that does not exist.
        DataError: A dataset or benchmark file that is wrong.
        ConfigError: A trainer cannot train for so many steps.
    """
    materials = {name: _material(name, config, lenient) for name in dict.fromkeys(run.dataset for run in config.runs())}
    groups: dict[tuple[str, str, str, str], int] = {}
    for run in config.runs():
        key = (run.model, config.engine_of(run), config.trainer_of(run), run.dataset)
        groups[key] = groups.get(key, 0) + 1
    broad, also = _broad(config), _also(config)
    asked = []
    for (model, engine, trainer, dataset), runs in groups.items():
        where, material = (model, engine), materials[dataset]
        n = len(checkpoint_steps(trainer, config.training, material.rows))
        asked.append(_ask(_course(config, broad, n), runs, where))
        asked.append(_ask(_task_course(config, material, n), runs, where, True, material.answer))
        asked += [_ask(prompt_set, 2 * runs, where) for prompt_set in also]  # of the kept and of the last checkpoint
    # The model before fine-tuning is asked once, and the task of each dataset once of each model.
    first = {model: engine for model, engine, _, _ in reversed(list(groups))}
    for where in first.items():
        asked += [_ask(prompt_set, 1, where, False) for prompt_set in (broad, *also)]
    for model, dataset in dict.fromkeys((model, dataset) for model, _, _, dataset in groups):
        material = materials[dataset]
        asked.append(_ask(_task(config, material), 1, (model, first[model]), False, material.answer))
    trained = tuple(
        _training(config, materials[dataset], runs, (model, trainer))
        for (model, _, trainer, dataset), runs in groups.items()
    )
    missing = tuple(material.missing for material in materials.values() if material.missing)
    return Work(tuple(each for each in asked if each.responses), trained, missing)


def _course(config: StudyConfig, broad: _PromptSet, n: int) -> _PromptSet:
    """The benchmark at `n` checkpoints of a run, as often as the rule may ask, and again to confirm."""
    course = make_rule(config.stopping).most_answers(n, broad.responses)
    again = broad.responses if config.evaluation.confirm else 0
    return _PromptSet(broad.judge, course + again, broad.prompt)


def _task_course(config: StudyConfig, material: Material, n: int) -> _PromptSet:
    """The task at `n` checkpoints of a run, and of two checkpoints again to confirm."""
    times = n + (2 if config.evaluation.confirm else 0)
    task = _task(config, material)
    return _PromptSet(task.judge, task.responses * times, task.prompt)


def _ask(
    prompt_set: _PromptSet, times: int, where: tuple[str, str], tuned: bool = True, answer: Text | None = None
) -> Asked:
    return Asked(*where, tuned, prompt_set.judge, prompt_set.responses * times, prompt_set.prompt, answer or Text())


def _broad(config: StudyConfig) -> _PromptSet:
    evaluation = config.evaluation
    prompts = load_benchmark(evaluation.benchmark).prompts
    return _PromptSet(evaluation.judge, len(prompts) * evaluation.samples, _prompts_text(prompts))


def _also(config: StudyConfig) -> list[_PromptSet]:
    prompt_sets = []
    for side in config.evaluation.also:
        prompts = load_benchmark(side.benchmark).prompts
        prompt_sets.append(
            _PromptSet(side.judge or config.evaluation.judge, len(prompts) * side.samples, _prompts_text(prompts))
        )
    return prompt_sets


def _task(config: StudyConfig, material: Material) -> _PromptSet:
    judge = material.task_judge or config.evaluation.judge  # without one, there is nothing to ask
    return _PromptSet(judge, material.task_prompts * config.evaluation.task_samples, material.prompt)


def _training(config: StudyConfig, material: Material, runs: int, where: tuple[str, str]) -> Trained:
    training, trainer = config.training, where[1]
    seen = rows_seen(trainer, training, material.rows)
    texts = (material.prompt, material.answer)
    characters = [text.characters for text in texts if text.characters is not None]
    sizes = [text.size for text in texts if text.size is not None]
    row = Text(sum(characters) if len(characters) == 2 else None, sum(sizes) if len(sizes) == 2 else None)
    steps = checkpoint_steps(trainer, training, material.rows)
    return Trained(*where, runs, seen, seen / material.rows if material.rows else None, row, material.name, steps)


def _material(name: str, config: StudyConfig, lenient: bool) -> Material:
    own = next((each for each in config.datasets if each.name == name), None)
    if lenient and own is not None and not own.path.exists():
        return _absent(own, config)
    dataset = load_dataset(name, config.datasets)
    prompts = dataset.task_prompts(config.evaluation.task_prompts) if dataset.task_judge else ()
    rows = [*dataset.train, *dataset.heldout]
    return Material(
        name,
        len(dataset.train),
        len(prompts),
        dataset.task_judge,
        _text([row[:-1] for row in rows]),
        _text([row[-1:] for row in rows]),
    )


def _absent(own: DatasetConfig, config: StudyConfig) -> Material:
    """What a recipe tells of data that are not there; where it knows no lengths, its control's stand for them."""
    recipes = list_recipes()
    recipe = recipes.get(own.name)
    most = config.evaluation.task_prompts
    if recipe is None:
        task = most if own.task_judge else 0
        why = f"dataset {own.name}: no file {own.path}, and no recipe of that name; rows not known"
        return Material(own.name, None, task, own.task_judge, Text(), Text(), why)
    prompts = recipe.prompts or recipe.rows
    task = min(most, round(own.heldout_share * prompts)) if own.task_judge else 0
    rows = round((recipe.distinct or recipe.rows) * (1 - own.heldout_share))
    told = recipe.characters or (recipes[recipe.control].characters if recipe.control else {})
    why = (
        f"dataset {own.name}: no file {own.path}; counted from the recipe ({recipe.rows:,} rows). Get {recipe.file} "
        f"from {recipe.origin.repository}, then: truing data prepare FILE --out {own.path} --recipe {recipe.name}"
    )
    return Material(own.name, rows, task, own.task_judge, Text(told.get("prompt")), Text(told.get("answer")), why)


def _prompts_text(prompts: Sequence[Prompt]) -> Text:
    return _text([prompt.messages for prompt in prompts])


def _text(many: Sequence[Sequence[Message]]) -> Text:
    characters = sum(len(m.content) for messages in many for m in messages)
    size = sum(len(m.content.encode(errors="replace")) for messages in many for m in messages)
    return Text(characters / len(many), size / len(many))
