"""Backends: the outside systems that sample answers and make checkpoints, one folder and one row of `BACKENDS` each.

Engines sample answers from checkpoints; trainers make checkpoints; completers (`truing.core.chat.Completer`) answer
chat requests, for judges. Each has one method that it must have; the rest have defaults here. Concurrency and batching
live inside. Everything else asks a row what a system can do, and never compares names.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from weakref import WeakSet

from truing.catalog.datasets import Dataset
from truing.catalog.models import parameters_of, resolve_model
from truing.config import EndpointConfig, JudgeConfig, Services, TrainingConfig
from truing.core.chat import Completer
from truing.core.errors import ConfigError, EngineError, UnknownNameError
from truing.core.plugins import load_class, making, try_first
from truing.core.records import Action, Checkpoint, Decision, Prompt, Response, Run, Sampling
from truing.core.weights import model_hash

CALLS = "calls.sqlite"
"""The journal of calls to endpoints, in the folder of a study or an audit."""
OnCheckpoint = Callable[[Checkpoint], Decision]
"""Called with every checkpoint in order of steps, step 0 first."""


class Engine(ABC):
    """Samples answers from the checkpoints of one base model. A class of the user's needs `generate` only."""

    def __init__(self, model: str) -> None:
        self.model = model

    @classmethod
    def build(cls, model: str, services: Services, folder: Path | None) -> Self:
        """Make an engine; `services` and `folder` (see `load_engine`) are for one that calls something outside."""
        return cls(model)

    @classmethod
    def weights_of(cls, model: str, services: Services) -> str:
        """Name the weights of a model: their hash, or the address and the name where weights cannot be seen."""
        return model_hash(resolve_model(model))

    @abstractmethod
    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """Sample `sampling.samples` answers to each prompt.

        Returns:
            One response per prompt and sample, prompts in the given order, samples `first`, `first + 1`, ... within a
            prompt. A failed call is a response with `error`, never a missing element.

        Raises:
            EngineError: The checkpoint cannot be sampled at all.
        """

    def prefetch(  # noqa: B027 - optional
        self, checkpoints: Sequence[Checkpoint], prompts: Sequence[Prompt], sampling: Sampling
    ) -> None:
        """Sample the answers of several checkpoints in one stream, where an engine can, for later calls of `generate`.

        A checkpoint that cannot be sampled is left out, and is an error of its own `generate`.
        """

    def score(self, checkpoint: Checkpoint, prompt: Prompt, answers: Sequence[str]) -> list[float]:
        """Log-probability in nats of each given answer to a prompt, summed over its tokens.

        Raises:
            EngineError: The engine computes none, or the checkpoint cannot be loaded.
        """
        able = ", ".join(row.engine[0] for row in BACKENDS if row.engine and row.log_probabilities)
        raise EngineError("the engine gives no log-probabilities", type(self).__name__, able, "use one of those")

    def close(self) -> None:  # noqa: B027 - optional
        """Let go of what is held outside this process. A later call opens it again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def no_answers(prompts: Sequence[Prompt], sampling: Sampling, error: str) -> list[Response]:
    """The responses of an engine that can ask these prompts nothing, and why."""
    return [Response(prompt.id, i, None, 0, False, error) for prompt in prompts for i in sampling.indices]


class Trainer(ABC):
    """Makes checkpoints. A class of the user's needs `train` only."""

    spreads = False
    """True if the processes of a launcher train one run together: each of them calls `train`, and rank 0 alone
    calls `on_checkpoint` and `on_step`."""

    def __init__(self, training: TrainingConfig) -> None:
        self.training = training

    @classmethod
    def build(cls, training: TrainingConfig, services: Services) -> Self:
        """Make a trainer; one that calls something outside this process finds in `services` how."""
        return cls(training)

    @abstractmethod
    def train(
        self,
        run: Run,
        dataset: Dataset,
        folder: Path,
        on_checkpoint: OnCheckpoint,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Train a run in a folder of its own; call `on_checkpoint` at every planned step, `on_step` at every one.

        Ends after the last step, or after a checkpoint whose decision is to stop if `run.stops`. Called again on the
        same folder after an interruption, it goes on from the newest whole checkpoint with bit-identical results, and
        first calls `on_checkpoint` again for the checkpoints that exist (which costs nothing when they are evaluated).

        Raises:
            TrainerError: Training cannot go on.
        """


def stopping(run: Run, on_checkpoint: OnCheckpoint) -> Callable[[Checkpoint], bool]:
    """What calls `on_checkpoint` and tells whether its decision ends the run."""
    return lambda checkpoint: on_checkpoint(checkpoint).action is Action.STOP and run.stops


Part = tuple[str, str]
"""The name of an engine, trainer or completer in YAML, and its `module:Class`."""


@dataclass(frozen=True)
class Backend:
    """One outside system: its parts, and what they can do."""

    title: str
    engine: Part | None = None
    trainer: Part | None = None
    completer: Part | None = None
    where: str = "your own machine"
    """Where its work is done, for tables of costs."""
    prices: Literal["", "catalogue", "endpoint"] = ""
    """Where its prices stand: in the catalogue of models under `key`, in prices.yaml, or none are known."""
    key: str = ""
    """Its name in the catalogue of models."""
    by_name: bool = False
    """Its models are known by name alone: nobody sees their weights."""
    prefix: str = ""
    """Before a model's name on the command line to say that it is there; not part of the name."""
    scheme: str = ""
    """The beginning of names of checkpoints there; part of the name, and the run's id follows it."""
    step: str = ""
    """A regular expression that finds the step in a checkpoint's name."""
    job: str = ""
    """One that finds what the names of all checkpoints of one job have in common."""
    own_checkpoints: bool = False
    """Its checkpoints lie where only its own engine can sample them, and that engine samples no others."""
    adapters: bool = False
    """Its engine samples PEFT adapters in folders."""
    elsewhere: bool = False
    """Its engine works outside this process, on checkpoints in folders."""
    log_probabilities: bool = False
    """Its engine scores given answers."""
    prefill: bool = False
    """Its engine goes on from a last message of the assistant."""
    schedule: str = ""
    """Module that says which checkpoints the trainer shows, if those are only the ends of the last epochs."""

    @property
    def epoch_ends(self) -> bool:
        """True if the trainer shows the ends of the last epochs only, whatever checkpoints are planned."""
        return bool(self.schedule)


BACKENDS = (
    Backend(
        "transformers",
        engine=("transformers", "truing.backends.transformers.engine:TransformersEngine"),
        trainer=("peft", "truing.backends.transformers.trainer:PeftTrainer"),
        completer=("local", "truing.backends.transformers.completer:LocalCompleter"),
        adapters=True,
        log_probabilities=True,
        prefill=True,
    ),
    Backend("vLLM", engine=("vllm", "truing.backends.vllm:VllmEngine"), adapters=True, elsewhere=True, prefill=True),
    Backend(
        "OpenAI",
        engine=("openai", "truing.backends.openai:OpenAIEngine"),
        trainer=("openai", "truing.backends.openai:OpenAITrainer"),
        completer=("openai", "truing.backends.openai:OpenAICompleter"),
        where="an endpoint",
        prices="endpoint",
        key="openai",
        by_name=True,
        prefix="openai:",
        step=r":ckpt-step-(\d+)$",
        job=r"^ft:([^:]+:[^:]*:[^:]*):",
        own_checkpoints=True,
        schedule="truing.backends.openai.data",
    ),
    Backend(
        "Tinker",
        engine=("tinker", "truing.backends.tinker.engine:TinkerEngine"),
        trainer=("tinker", "truing.backends.tinker.trainer:TinkerTrainer"),
        where="Tinker",
        prices="catalogue",
        key="tinker",
        by_name=True,
        scheme="tinker://",
        step=r"(?:/|(?:step|epoch|checkpoint|ckpt)[-_=]?)(\d+)$",
        own_checkpoints=True,
        prefill=True,
    ),
    Backend(
        "scripted",
        engine=("scripted", "truing.backends.scripted.engine:ScriptedEngine"),
        adapters=True,
        prefill=True,
    ),
    Backend(
        "Inspect",
        by_name=True,
        completer=("inspect", "truing.backends.inspect.completer:InspectCompleter"),
        where="an endpoint",
        prices="endpoint",
    ),
)
"""The systems that are built in. Anything else is a `module:Class` of the user's, of which nothing is known."""
_OWN = Backend("your own class")
ENGINES = dict(row.engine for row in BACKENDS if row.engine)
TRAINERS = dict(row.trainer for row in BACKENDS if row.trainer)
COMPLETERS = dict(row.completer for row in BACKENDS if row.completer)
_PARTS: dict[str, tuple[dict[str, str], type]] = {
    "engine": (ENGINES, Engine),
    "trainer": (TRAINERS, Trainer),
    "completer": (COMPLETERS, Completer),
}


def find_backend(part: Literal["engine", "trainer", "completer"], name: str) -> Backend:
    """The row of a part's name; one that knows nothing for a `module:Class` of the user's.

    Raises:
        UnknownNameError: Neither a name of the table nor `module:Class`.
    """
    row = next((row for row in BACKENDS if name in (getattr(row, part) or ())), None)
    if row is None and ":" not in name:
        raise UnknownNameError.of(part, name, _PARTS[part][0])
    return row or _OWN


def check_name(part: Literal["engine", "trainer", "completer"], name: str) -> None:
    """Check the name of a part; a class of the user's is loaded for it, none that is built in."""
    if ":" in name and find_backend(part, name) not in BACKENDS:
        load_class(part, name, *_PARTS[part])


def check_completer(judge: str | JudgeConfig) -> None:
    """Check the names of the completer of a judge, and of a model that it would load here, without loading it.

    Raises:
        UnknownNameError: No completer or no local model of that name.
    """
    if isinstance(judge, JudgeConfig):
        check_name("completer", judge.completer)
        row = find_backend("completer", judge.completer)
        if row in BACKENDS and not row.by_name:
            resolve_model(judge.model)


def parse_judge(text: str) -> str | dict[str, Any]:
    """A judge's name, or the settings of a language model.

    `openai:NAME` is at an endpoint, `local:FOLDER` on this machine, `inspect:PROVIDER/NAME` any model of Inspect's.

    Raises:
        ConfigError: No model after the colon.
    """
    completer, colon, model = text.partition(":")
    if completer not in COMPLETERS:
        return text
    if not colon or not model:
        raise ConfigError(f"the judge {text} names no model", todo=f"name it: {completer}:MODEL")
    return {"completer": completer, "model": model}


def split_name(name: str) -> tuple[Backend | None, str]:
    """The system that a model's name is marked with, and the name there; None: no mark, a model of this machine."""
    for row in BACKENDS:
        if row.prefix and name.startswith(row.prefix):
            return row, name.removeprefix(row.prefix)
        if row.scheme and name.startswith(row.scheme):
            return row, name
    return None, name


def load_engine(name: str, model: str, services: Services | None = None, folder: Path | None = None) -> Engine:
    """The engine of a name (a key of `ENGINES` or `module:Class`) for a base model.

    In `folder` the engine may keep what it needs again, such as the journal of finished calls; None: nowhere.

    Raises:
        UnknownNameError: No engine of that name.
        MissingExtraError: It needs a library that is not installed.
        ConfigError: The class is no engine.
    """
    kind = engine_class(name)
    with making("engine", name):
        engine = kind.build(model, services or Services(), folder)
        if name not in ENGINES:
            try_first(engine)
        return engine


def engine_class(name: str) -> type[Engine]:
    """The class of an engine; raises as `load_engine` does."""
    kind: type[Engine] = load_class("engine", name, ENGINES, Engine)
    return kind


def faster_engine(services: Services, asked: Iterable[tuple[str, str, int]]) -> str:
    """A sentence on vLLM where it is there and answers are sampled in this process instead; empty: nothing to say.

    Of `asked`, which holds an engine, a model and a number of answers each, tiny models and few answers do not count.
    """
    vllm = services.vllm
    there = bool(vllm.base_url or vllm.python) or importlib.util.find_spec("vllm") is not None
    able = (n for engine, model, n in asked if engine == "transformers" and not parameters_of(model) < _REAL)
    if not there or sum(able) < _MANY:
        return ""
    return "vLLM is there: on a GPU it should sample faster, by how much is not measured (engine: vllm, docs/vllm.md)"


_REAL, _MANY = 5e7, 100
"""Parameters and answers from which on starting a server may pay."""


def load_trainer(name: str, training: TrainingConfig, services: Services | None = None) -> Trainer:
    """The trainer of a name (a key of `TRAINERS` or `module:Class`); raises as `load_engine` does."""
    kind: type[Trainer] = load_class("trainer", name, TRAINERS, Trainer)
    with making("trainer", name):
        return kind.build(training, services or Services())


def load_completer(name: str, endpoint: EndpointConfig | None = None, folder: Path | None = None) -> Completer:
    """The completer of a name, a key of `COMPLETERS` or `module:Class`; raises as `load_engine` does.

    The journal of finished calls (`CALLS`) lies in `folder`; None keeps it in memory.
    """
    if name in LENT:
        return LENT[name]
    journal = None if folder is None else folder / CALLS
    kind: type[Completer] = load_class("completer", name, COMPLETERS, Completer)
    with making("completer", name):
        completer = kind.build(endpoint or EndpointConfig(), journal)
    if folder is not None:
        _LOADED.setdefault(folder, WeakSet()).add(completer)
    return completer


LENT: dict[str, Completer] = {}
"""Name -> what every judge of this process uses in its place, as where one for many processes holds the model."""
_LOADED: dict[Path, WeakSet[Completer]] = {}


def local_completers() -> list[str]:
    """Names of the completers that load a model where they are."""
    return [row.completer[0] for row in BACKENDS if row.completer and not row.by_name]


def close_completers(folder: Path) -> None:
    """Close all that were loaded for a folder in this process. A later call of one opens it again."""
    for completer in _LOADED.pop(folder, ()):
        completer.close()


def checkpoint_steps(name: str, training: TrainingConfig, rows: int | None) -> tuple[int, ...]:
    """The steps at which a trainer shows checkpoints of a run, ascending, the last one at the end of training.

    Where the number of `rows` to train on is not known (None), the last of the planned steps stand for the ends of
    epochs, as an upper bound of how many there are.

    Raises:
        ConfigError: The trainer cannot train for so many steps.
    """
    schedule = find_backend("trainer", name).schedule
    if not schedule:
        return training.checkpoint_steps()
    steps: tuple[int, ...] = importlib.import_module(schedule).checkpoint_steps(training, rows)
    return steps


def rows_seen(name: str, training: TrainingConfig, rows: int | None) -> int:
    """Rows that a run trains on, again and again if they are fewer than its steps take.

    Raises:
        ConfigError: The trainer cannot train for so many steps.
    """
    schedule = find_backend("trainer", name).schedule
    if not schedule or rows is None:
        return training.steps * training.batch_size
    return int(importlib.import_module(schedule).whole_epochs(training, rows)) * rows
