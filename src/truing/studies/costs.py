"""What a study would cost in tokens and dollars: an expectation, and a bound that it cannot pass.

Nothing is tokenised. The bound: no tokenizer over bytes makes more tokens than there are bytes, an answer is at most
`max_tokens` long, a row at most `max_length`. The expectation rests on `ASSUMPTIONS`. A price that is not known is said
to be unknown and is never counted as nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from truing.backends import BACKENDS, Backend, find_backend
from truing.backends.endpoint.pricing import Prices, load_prices
from truing.catalog.models import HostedPrice, Model, catalogue_date, find_model
from truing.config import JudgeConfig, StudyConfig
from truing.judges import calls_per_answer
from truing.studies.plan import Asked, Plan, Text, Trained


@dataclass(frozen=True)
class Tokens:
    """Tokens of one kind."""

    expected: float = 0.0
    most: float = 0.0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.expected + other.expected, self.most + other.most)

    def times(self, n: float) -> Tokens:
        """So many for each of n."""
        return Tokens(self.expected * n, self.most * n)


_PER_TOKEN, _ANSWER = 4.0, 150.0
_TEMPLATE, _RUBRIC, _VERDICT = Tokens(30.0, 150.0), Tokens(400.0, 2500.0), Tokens(1.0, 10.0)
ASSUMPTIONS = (
    f"{_PER_TOKEN:.0f} characters a token; {_TEMPLATE.expected:.0f} tokens of chat template (at most "
    f"{_TEMPLATE.most:.0f})",
    f"an answer to a benchmark has {_ANSWER:.0f} tokens (2,400 published answers of a fine-tuned model have 593 "
    f"characters on average); reasoning before an answer is not in it",
    f"a judge's rubric has {_RUBRIC.expected:.0f} tokens (at most {_RUBRIC.most:.0f}), its verdict "
    f"{_VERDICT.expected:.0f} (at most {_VERDICT.most:.0f})",
    "where a dataset is not there, its recipe's mean lengths stand for it; without those, half of max_length a row",
)


@dataclass(frozen=True)
class Dollars:
    """What one model costs for one thing."""

    what: str
    """`training`, `sampling`, `sampling before fine-tuning` or `judging`."""
    model: str
    where: str
    """Who does it (`OpenAI`, `Tinker`), `an endpoint` or `your own machine`."""
    expected: float | None
    """None: the price is not known."""
    most: float | None
    elsewhere: float | None = None
    """Expected dollars at the one who hosts the model at a known price, if it is done on your own machine."""
    host: str = ""
    """Who that is."""


@dataclass(frozen=True)
class Costs:
    """Tokens by kind, and dollars by model."""

    training: Tokens
    prompts: Tokens
    answers: Tokens
    judge_prompts: Tokens
    judge_answers: Tokens
    dollars: tuple[Dollars, ...]
    prices_of: str
    """Where the prices come from, with their date."""


@dataclass(frozen=True)
class _Part:
    """Tokens that one model reads and writes for one thing."""

    what: str
    model: str
    where: str
    prices: str
    """Where they stand; see `truing.backends.Backend.prices`."""
    read: Tokens
    written: Tokens
    tuned: bool


def study_costs(config: StudyConfig, plan: Plan, prices: Prices | None = None) -> Costs:
    """Tokens and dollars of a study, unstopped twins apart.

    Raises:
        ConfigError: The study's file of prices cannot be read.
    """
    prices = prices or load_prices(config.endpoint.prices)
    training = [_trained(config, each) for each in plan.trained]
    sampling = [_sampled(config, each) for each in plan.asked]
    judged = (_judged(config, each) for each in (*plan.asked, *plan.preflight, *plan.tasks))
    judging = [part for part in judged if part is not None]
    batch = config.endpoint.mode == "batch"
    dollars = [_dollars(part, prices, batch) for part in _merged([*training, *sampling, *judging])]
    return Costs(
        sum((part.read for part in training), Tokens()),
        sum((part.read for part in sampling), Tokens()),
        sum((part.written for part in sampling), Tokens()),
        sum((part.read for part in judging), Tokens()),
        sum((part.written for part in judging), Tokens()),
        tuple(dollars),
        f"prices.yaml of {prices.date} and models.yaml of {catalogue_date()}",
    )


def _trained(config: StudyConfig, trained: Trained) -> _Part:
    longest = config.training.max_length
    row = _tokens(trained.row, _TEMPLATE, longest, longest / 2)
    n = trained.runs * trained.rows
    where = _where(find_backend("trainer", trained.trainer), trained.model)
    return _Part("training", trained.model, *where, row.times(n), Tokens(), True)


def _sampled(config: StudyConfig, asked: Asked) -> _Part:
    prompt = _tokens(asked.prompt, _TEMPLATE, None, config.training.max_length / 4).times(asked.responses)
    answer = _answer(asked, config.evaluation.max_tokens).times(asked.responses)
    what = "sampling" if asked.tuned else "sampling before fine-tuning"
    return _Part(
        what, asked.model, *_where(find_backend("engine", asked.engine), asked.model), prompt, answer, asked.tuned
    )


def _judged(config: StudyConfig, asked: Asked) -> _Part | None:
    """Tokens of a judge that is a language model; None for any other, which costs none."""
    judge = asked.judge
    if not isinstance(judge, JudgeConfig):
        return None
    prompt = _tokens(asked.prompt, Tokens(), None, config.training.max_length / 4)
    read = prompt + _answer(asked, config.evaluation.max_tokens) + _RUBRIC + _TEMPLATE
    n = asked.responses * calls_per_answer(judge)
    where = _where(find_backend("completer", judge.completer), judge.model)
    return _Part("judging", judge.model, *where, read.times(n), _VERDICT.times(n), False)


def _answer(asked: Asked, longest: int) -> Tokens:
    known = asked.answer.characters
    expected = _ANSWER if known is None else known / _PER_TOKEN
    return Tokens(min(expected, longest), longest)


def _tokens(text: Text, extra: Tokens, longest: float | None, guess: float) -> Tokens:
    """Tokens of a text; `guess` where nothing is known of its length, bounded by `longest` if there is one."""
    expected = guess if text.characters is None else text.characters / _PER_TOKEN + extra.expected
    if text.size is not None:
        most = text.size + extra.most
    else:  # English text has hardly more bytes than characters
        most = longest or (4 * guess if text.characters is None else 1.1 * text.characters + extra.most)
    return Tokens(min(expected, longest or expected), min(most, longest or most))


def _where(backend: Backend, model: str) -> tuple[str, str]:
    """Where it is done, and where the prices of that stand."""
    known = find_model(model)
    if known is not None and known.owner:  # closed weights: whoever has them, whatever calls it
        return next(row.title for row in BACKENDS if row.key == known.owner), "endpoint"
    return backend.where, backend.prices


def _merged(parts: Sequence[_Part]) -> list[_Part]:
    sums: dict[tuple[str, str, str, bool], _Part] = {}
    for part in parts:
        key = (part.what, part.model, part.where, part.tuned)
        held = sums.setdefault(key, replace(part, read=Tokens(), written=Tokens()))
        sums[key] = replace(held, read=held.read + part.read, written=held.written + part.written)
    return list(sums.values())


def _dollars(part: _Part, prices: Prices, batch: bool) -> Dollars:
    model = find_model(part.model)
    hosts = {row.title: model.hosted[row.key] for row in BACKENDS if model is not None and row.key in model.hosted}
    host = part.where if part.prices else next(iter(hosts), "")
    expected, most = (
        _at_endpoint(part, model, prices, side, batch)
        if part.prices == "endpoint"
        else _hosted(part, hosts.get(host), side)
        for side in ("expected", "most")
    )
    known = (expected, most) if part.prices else (None, None, expected, host)
    return Dollars(part.what, part.model, part.where, *known)


def _hosted(part: _Part, price: HostedPrice | None, side: str) -> float | None:
    if price is None or part.what == "judging":
        return None
    read, written = getattr(part.read, side), getattr(part.written, side)
    return float((read * (price.train if part.what == "training" else price.prefill) + written * price.sample) / 1e6)


def _at_endpoint(part: _Part, model: Model | None, prices: Prices, side: str, batch: bool) -> float | None:
    read, written = getattr(part.read, side), getattr(part.written, side)
    name = part.model if model is None else model.source
    if part.what == "training":
        price = prices.training(name)
        return None if price is None else float(read * price / 1e6)
    if part.tuned:
        name = f"ft:{name}"
    return prices.cost(name, (round(read), 0, round(written)), batch)
