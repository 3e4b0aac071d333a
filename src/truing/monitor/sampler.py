"""From a checkpoint to judged answers, each asked for once: sample, judge, store both.

What the store holds is not done again, and what failed is asked for again. Three kinds of answers never share a
random stream: those of the fixed design, fresh ones that confirm a choice, and those to random prompts.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from truing.backends import Engine
from truing.catalog.datasets import Dataset
from truing.config import EvaluationConfig
from truing.core.answers import EMPTY, is_blank, is_final
from truing.core.errors import EngineError, boundary
from truing.core.files import content_key
from truing.core.plugins import every_one, is_untried, tried
from truing.core.records import Benchmark, Checkpoint, Judgment, Prompt, Response, Sampling
from truing.judges import Judge, ask_judge, check_benchmark
from truing.judges.classify import count_judgments
from truing.judges.labelled import task_labels
from truing.monitor.store import Store
from truing.stats.betting import draw_prompts
from truing.stats.rates import Counts

__all__ = ["FIXED", "FRESH", "RANDOM", "AskedAnswers", "Pair", "PromptSet", "RandomPrompts", "Sampler", "answers_key"]

FIXED, FRESH, RANDOM = 0, 1 << 20, 1 << 21
"""Index of the first answer of each kind."""
_FIRST = 2
"""Answers by which a part of the user's own is tried."""
_CHUNK = 1 << 12
"""Indices of answers kept for each chunk of random prompts."""

Pair = tuple[str, int]
"""A prompt's id and the index of an answer to it."""
Row = TypeVar("Row", Response, Judgment)
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in (Response, Judgment)}


@dataclass(frozen=True, eq=False)
class PromptSet:
    """Prompts that every checkpoint is asked, and who judges the answers; equal to itself alone."""

    prompts: Sequence[Prompt]
    judge: Judge
    samples: int = 1
    """Answers per prompt."""
    teaches: str = "misaligned"
    """Answers that show a task learnt, where the prompts are a dataset's: "misaligned" or "aligned" ones."""
    labelled: str | None = None
    """Labelled answers by which the judge of a task is measured; None: there are none."""

    @classmethod
    def of_task(cls, dataset: Dataset, config: EvaluationConfig, judge: Judge) -> PromptSet:
        """The held-out prompts of a dataset, as many as are asked; they measure its task.

        Raises:
            JudgeRefused: The judge can score no answer to them.
        """
        prompts, labelled = dataset.task_prompts(config.task_prompts), task_labels(dataset.task_judge)
        if prompts and dataset.task_judge:
            check_benchmark(dataset.task_judge, Benchmark(dataset.name, "", "", tuple(prompts), dataset.hash))
        return cls(prompts, judge, config.task_samples, dataset.teaches, labelled)

    def every_pair(self, first: int) -> list[Pair]:
        """All prompts, `samples` answers each."""
        return [(prompt.id, first + i) for prompt in self.prompts for i in range(self.samples)]


class Sampler:
    """Asks checkpoints of one base model and has the answers judged.

    Args:
        store: Where responses and judgments are kept.
        engine: Samples the answers.
        config: Sampling settings and thresholds.
    """

    def __init__(self, store: Store, engine: Engine, config: EvaluationConfig) -> None:
        self.store, self.engine, self.config = store, engine, config
        self._latest: dict[str, tuple[str, dict[Pair, Any]]] = {}
        self._keys: dict[tuple[str, PromptSet, int], str] = {}  # each is a hash of the whole benchmark

    def measure(self, checkpoint: Checkpoint, prompt_set: PromptSet, first: int = FIXED) -> tuple[str, Counts]:
        """Ask every prompt; the key of the judgments and their counts by prompt."""
        key, judgments = self.judged(checkpoint, prompt_set, prompt_set.every_pair(first), first)
        return key, count_judgments(judgments, [p.id for p in prompt_set.prompts], self.config)

    def keys(self, checkpoint: Checkpoint, prompt_set: PromptSet, first: int) -> tuple[str, str]:
        """The keys of the responses and of the judgments of a checkpoint."""
        asked = (checkpoint.weights, prompt_set, first)
        if (responses := self._keys.get(asked)) is None:
            responses = answers_key(asked[0], prompt_set.prompts, prompt_set.samples, first, self.config)
            self._keys[asked] = responses
        return responses, judgments_key(responses, prompt_set.judge.identity)

    def judged(
        self, checkpoint: Checkpoint, prompt_set: PromptSet, pairs: Sequence[Pair], first: int
    ) -> tuple[str, list[Judgment]]:
        """The key of the judgments, and the judgments of these answers, in their order.

        Raises:
            EngineError: The checkpoint cannot be sampled.
            JudgeError: The judge cannot be used at all; single failures are missing scores.
            StoreError: Results cannot be written.
        """
        responses_key, key = self.keys(checkpoint, prompt_set, first)
        by_id = {prompt.id: prompt for prompt in prompt_set.prompts}
        with self.store.claim(key):
            responses = self.sampled(checkpoint, prompt_set, pairs, first)

            def score(owed: Sequence[Pair]) -> list[Judgment]:
                answers = [responses[pair] for pair in owed]
                return ask_judge(prompt_set.judge, [by_id[r.prompt_id] for r in answers], answers)

            scored = self._held("judgments", key, Judgment)
            able = [p for p in pairs if p not in scored or not responses[p].error]
            place = ("judgments", key, {"responses_key": responses_key})
            judgments = self._completed(place, scored, able, lambda owed: self._tried(prompt_set.judge, owed, score))
        return key, [judgments[pair] for pair in pairs]

    def sampled(
        self, checkpoint: Checkpoint, prompt_set: PromptSet, pairs: Sequence[Pair], first: int
    ) -> dict[Pair, Response]:
        """The responses that are there, these among them.

        Raises:
            EngineError: The checkpoint cannot be sampled.
            StoreError: Results cannot be written.
        """
        key, _ = self.keys(checkpoint, prompt_set, first)
        by_id = {prompt.id: prompt for prompt in prompt_set.prompts}
        with self.store.claim(key):
            held = self._held("responses", key, Response)
            return self._completed(
                ("responses", key, {}), held, pairs, lambda owed: self._sample(checkpoint, by_id, owed)
            )

    def responses(self, checkpoint: Checkpoint, prompt_set: PromptSet, first: int) -> list[Response]:
        """The stored responses of a checkpoint, failed ones too."""
        return list(self._held("responses", self.keys(checkpoint, prompt_set, first)[0], Response).values())

    def prefetch(self, checkpoints: Sequence[Checkpoint], prompt_set: PromptSet, first: int = FIXED) -> None:
        """Let an engine that can answer for many checkpoints at once do so for what is owed; others are left alone."""
        by_id = {prompt.id: prompt for prompt in prompt_set.prompts}
        alike: dict[tuple[Sampling, tuple[str, ...]], list[Checkpoint]] = defaultdict(list)
        for checkpoint in checkpoints:
            held = self._held("responses", self.keys(checkpoint, prompt_set, first)[0], Response)
            owed = [pair for pair in prompt_set.every_pair(first) if _is_owed(held.get(pair))]
            for sampling, prompts in self._calls(by_id, owed).items():
                alike[sampling, tuple(prompt.id for prompt in prompts)].append(checkpoint)
        for (sampling, ids), same in alike.items():
            self.engine.prefetch(same, [by_id[prompt_id] for prompt_id in ids], sampling)

    def judge_again(self, checkpoint: Checkpoint, prompt_set: PromptSet, first: int) -> Counts:
        """Ask again for what failed among the answers that were judged; counts of all of them."""
        _, key = self.keys(checkpoint, prompt_set, first)
        pairs = list(self._held("judgments", key, Judgment))
        _, judgments = self.judged(checkpoint, prompt_set, pairs, first)
        return count_judgments(judgments, [p.id for p in prompt_set.prompts], self.config)

    def _held(self, table: str, key: str, kind: type[Row]) -> dict[Pair, Row]:
        latest, rows_of_latest = self._latest.get(table, ("", {}))
        if latest == key:  # what another process adds meanwhile would only be made twice, and alike
            return rows_of_latest
        if not self.store.has(table, key):
            return {}
        rows = [kind(**{name: row[name] for name in _FIELDS[kind]}) for row in self.store.read(table, key)]
        return {(row.prompt_id, row.sample): row for row in rows}

    def _completed(
        self,
        place: tuple[str, str, Mapping[str, str]],
        held: dict[Pair, Row],
        pairs: Sequence[Pair],
        make: Callable[[Sequence[Pair]], Sequence[Row]],
    ) -> dict[Pair, Row]:
        """Rows that are held, with those that were owed; only those that are new, or no longer failed, are written."""
        owed = [pair for pair in dict.fromkeys(pairs) if _is_owed(held.get(pair))]
        made = {(row.prompt_id, row.sample): row for row in make(owed)} if owed else {}
        new = {pair: row for pair, row in made.items() if pair not in held or not row.error}
        if new:
            table, key, more = place
            self.store.amend(table, key, [{**_plain(row), **more} for row in new.values()])
        every = {**held, **new}
        self._latest[place[0]] = (place[1], every)
        return every

    def _sample(self, checkpoint: Checkpoint, by_id: Mapping[str, Prompt], owed: Sequence[Pair]) -> list[Response]:
        def answer(owed: Sequence[Pair]) -> list[Response]:
            who = f"the engine {self.config.engine}"
            with boundary(f"{who}: sampling", EngineError):
                calls = self._calls(by_id, owed).items()
                answers = [
                    r for sampling, prompts in calls for r in self.engine.generate(checkpoint, prompts, sampling)
                ]
                rows = every_one(owed, answers, Response, EngineError, who)
                blank = (row.text is not None and is_blank(row.text) for row in rows)
                return [
                    replace(row, text=None, error=f"{EMPTY} answer") if is_empty else row
                    for row, is_empty in zip(rows, blank, strict=True)
                ]

        return self._tried(self.engine, owed, answer)

    def _tried(
        self, part: Engine | Judge, owed: Sequence[Pair], make: Callable[[Sequence[Pair]], list[Row]]
    ) -> list[Row]:
        """The rows that a part makes: of one that has not been tried a few first, and the rest if these are right."""
        if not is_untried(part):
            return make(owed)
        rows = make(owed[:_FIRST])
        tried(part)
        return rows + (make(owed[_FIRST:]) if len(owed) > _FIRST else [])

    def _calls(self, by_id: Mapping[str, Prompt], owed: Sequence[Pair]) -> dict[Sampling, list[Prompt]]:
        """One call for all prompts that want the same answers, sampled alike."""
        wanted: dict[str, list[int]] = defaultdict(list)
        for prompt_id, index in owed:
            wanted[prompt_id].append(index)
        calls: dict[Sampling, list[Prompt]] = defaultdict(list)
        for prompt_id, indices in wanted.items():
            sampling = self._sampling(min(indices), max(indices) - min(indices) + 1, by_id[prompt_id].temperature)
            calls[sampling].append(by_id[prompt_id])
        return calls

    def _sampling(self, first: int, samples: int, temperature: float | None = None) -> Sampling:
        """A prompt's own temperature goes before the evaluation's."""
        config = self.config
        heat = config.temperature if temperature is None else temperature
        return Sampling(samples, heat, config.max_tokens, config.seed, first)


def _plain(row: Response | Judgment) -> dict[str, Any]:
    """The fields of a row: what `dataclasses.asdict` gives of plain values, many times faster."""
    return {name: getattr(row, name) for name in _FIELDS[Response if isinstance(row, Response) else Judgment]}


def _is_owed(row: Response | Judgment | None) -> bool:
    """True if it is not there or failed; what is there and holds no answer is not asked for again."""
    return row is None or (bool(row.error) and not is_final(row.error))


def answers_key(weights: str, prompts: Sequence[Prompt], samples: int, first: int, config: EvaluationConfig) -> str:
    """Key of the answers of weights to prompts, `samples` to each, their indices from `first` on."""
    sampling = Sampling(samples, config.temperature, config.max_tokens, config.seed, first)
    return content_key("responses", weights, [p.plain for p in prompts], asdict(sampling), config.engine)


def judgments_key(responses: str, judge: str) -> str:
    """Key of the judgments of answers, by the key of these and the identity of the judge."""
    return content_key("judgments", responses, judge)


class RandomPrompts:
    """Random prompts for one checkpoint, a few at a time: what rules that look until they can tell ask for.

    Which prompts come, and in which order, follows from the weights and the seed of sampling alone, so a look that was
    interrupted goes on with the very same answers, and what the store holds is not asked again.

    Args:
        sampler: Samples and stores.
        checkpoint: Who is asked.
        prompt_set: The prompts to choose from, and the judge.
        fewest: Answers to sample at once at first.
    """

    def __init__(self, sampler: Sampler, checkpoint: Checkpoint, prompt_set: PromptSet, fewest: int) -> None:
        self.sampler, self.checkpoint, self.prompt_set, self.fewest = sampler, checkpoint, prompt_set, fewest
        name = f"{sampler.config.seed} {checkpoint.weights}".encode()
        self.rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name).digest()[:8], "big"))
        self.chosen = self.chunks = 0
        self.ahead: list[Pair] = []
        """Chosen and sampled, not yet judged: an engine samples many at a time, a rule wants few."""
        self.judgments: list[Judgment] = []

    def __call__(self, size: int) -> tuple[int, int, int]:
        """Misaligned, coherent and missing ones among `size` more answers."""
        if len(self.ahead) < size:
            self._sample_ahead(max(size - len(self.ahead), self.fewest - self.chosen, self.chosen // 2))
        pairs, self.ahead = self.ahead[:size], self.ahead[size:]
        _, judgments = self.sampler.judged(self.checkpoint, self.prompt_set, pairs, RANDOM)
        self.judgments += judgments
        counts = self._counted(judgments)
        return int(counts.misaligned.sum()), int(counts.coherent.sum()), int(counts.missing.sum())

    def _sample_ahead(self, size: int) -> None:
        first = RANDOM + self.chunks * _CHUNK  # equal in a chunk: few calls of the engine
        seen: Counter[str] = Counter()
        for i in draw_prompts(self.rng, len(self.prompt_set.prompts), size).tolist():
            prompt_id = self.prompt_set.prompts[i].id
            self.ahead.append((prompt_id, first + seen[prompt_id]))
            seen[prompt_id] += 1
        self.chosen, self.chunks = self.chosen + size, self.chunks + 1
        self.sampler.sampled(self.checkpoint, self.prompt_set, self.ahead, RANDOM)

    def counts(self, after: int = 0) -> Counts:
        """Of all answers so far but the first `after`, by prompt."""
        return self._counted(self.judgments[after:])

    def first_answers(self, after: int = 0) -> Counts:
        """Of the first answer to each prompt; prompts that came up among the first `after` answers are left out."""
        known = {judgment.prompt_id for judgment in self.judgments[:after]}
        first = {judgment.prompt_id: judgment for judgment in reversed(self.judgments[after:])}
        return self._counted([judgment for judgment in first.values() if judgment.prompt_id not in known])

    def _counted(self, judgments: list[Judgment]) -> Counts:
        return count_judgments(judgments, [p.id for p in self.prompt_set.prompts], self.sampler.config)


class AskedAnswers:
    """The answers of one checkpoint to the benchmark, for a rule; see `truing.stats.rules.Answers`."""

    def __init__(self, sampler: Sampler, checkpoint: Checkpoint, broad: PromptSet) -> None:
        self.sampler, self.checkpoint, self.broad = sampler, checkpoint, broad
        self._every: Counts | None = None
        self._random: RandomPrompts | None = None

    @property
    def n_prompts(self) -> int:
        """See `Answers`."""
        return len(self.broad.prompts)

    def every_prompt(self) -> Counts:
        """See `Answers`."""
        if self._every is None:
            self._every = self.sampler.measure(self.checkpoint, self.broad)[1]
        return self._every

    def random_prompts(self, size: int, ahead: int = 0) -> tuple[int, int, int]:
        """See `Answers`."""
        if self._random is None:
            self._random = RandomPrompts(self.sampler, self.checkpoint, self.broad, ahead)
        return self._random(size)

    def counts(self) -> Counts:
        """Counts of all that was asked."""
        return self.every_prompt() if self._random is None else self._random.counts()

    def first_answers(self) -> Counts:
        """See `Answers`."""
        return self.counts() if self._random is None else self._random.first_answers()

    def again(self, kind: int) -> Counts:
        """Counts of all that was asked of the checkpoint once; what had failed is asked again."""
        if kind == RANDOM:
            self._every = self.sampler.judge_again(self.checkpoint, self.broad, RANDOM)
        return self.every_prompt()
