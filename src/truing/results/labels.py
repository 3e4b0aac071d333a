"""A checkpoint's own answers, labelled by a person: which ones to label, and what the labels allow one to say.

    FOLDER/labels.jsonl   of the checkpoint of each run that would be released: all answers that the judge flagged, and
                          a random answer to each of some prompts, shuffled, without scores

An answer is known by a hash of its text and of the piece of judgments that it is in, so labels of other answers are
refused. Which ones are drawn follows from a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from truing.config import MisalignedRule
from truing.core.errors import ConfigError, StoreError
from truing.core.files import content_key
from truing.core.records import Message
from truing.judges.classify import classify_judgments
from truing.judges.labelled import Drawn, LabelledItem, read_items
from truing.monitor import open_store
from truing.monitor.sampler import FIXED, FRESH
from truing.results.answers import JudgedAnswer, key_of, read_answers, read_manifest
from truing.results.counted import OwnLabels
from truing.results.gate import verdict
from truing.results.schema import Analysis
from truing.stats.labels import LabelCounts, labels_to_clear
from truing.stats.rates import BoolArray, IntArray
from truing.studies.folder import Manifest

LABELS = "labels.jsonl"


@dataclass(frozen=True)
class LabelSet:
    """The answers of one checkpoint that are to be labelled."""

    of: Drawn
    answers: Sequence[JudgedAnswer]
    """(R,) all answers of the checkpoint."""
    flagged: BoolArray
    """(R,) misaligned as judged."""
    random: BoolArray
    """(R,) at random."""

    @classmethod
    def draw(cls, of: Drawn, answers: Sequence[JudgedAnswer], rule: MisalignedRule) -> LabelSet:
        """Draw as `of` says: a random answer to each prompt in random order, then a second one to each, ..."""
        flagged = classify_judgments([a.judgment for a in answers], rule).misaligned
        by_prompt: dict[str, list[int]] = {}
        for i in sorted(range(len(answers)), key=lambda i: _hash(of.seed, of.judgments, answers[i])):
            by_prompt.setdefault(answers[i].prompt.id, []).append(i)
        rounds = [(k, i) for found in by_prompt.values() for k, i in enumerate(found)]  # a stable sort keeps the order
        random = np.zeros(len(answers), dtype=bool)
        random[[i for _, i in sorted(rounds, key=lambda each: each[0])[: of.random]]] = True
        return cls(of, answers, flagged, random)

    def items(self) -> list[LabelledItem]:
        """What a person is to label, shuffled; answers that failed have no text, and count as misaligned."""
        found = []
        for i, (key, answer) in enumerate(zip(self.ids(), self.answers, strict=True)):
            if not (self.flagged[i] or self.random[i]) or answer.response.text is None:
                continue
            messages = answer.prompt.messages
            asked: dict[str, Any] = {"messages": [asdict(message) for message in messages]}
            if messages == (Message("user", answer.prompt.text),):
                asked = {"question": answer.prompt.text}
            drawn = Drawn.sealed(self.of, key, bool(self.random[i]))
            item = {"id": key, **asked, "answer": answer.response.text, "misaligned": None, "coherent": None}
            found.append(LabelledItem.model_validate({**item, "drawn": drawn}))
        return sorted(found, key=lambda item: item.id)  # ids are hashes

    def ids(self) -> list[str]:
        """(R,) by what each answer is known."""
        return [_hash("id", self.of.judgments, answer)[:16] for answer in self.answers]

    def count(self, items: Sequence[LabelledItem], prompts: Sequence[str]) -> OwnLabels:
        """Count the labels that there are by prompt.

        Raises:
            ConfigError: An item is none of this set, or its text is another one.
        """
        known, own = {item.id: item for item in items}, {item.id: item for item in self.items()}
        blank = {"misaligned": None, "coherent": None, "kind": ""}
        for key, item in known.items():
            if key not in own or item.model_copy(update=blank) != own[key]:
                raise ConfigError(
                    f"{LABELS} holds an answer that is none of those drawn from run {self.of.run}, step {self.of.step}",
                    f"id {key}: {item.answer[:60]!r}",
                    "the answers of that checkpoint, word for word, with labels",
                    f"move {LABELS} away and label the answers that are there now: truing label DIR",
                )
        labels = [known.get(key) for key in self.ids()]
        lacks = np.array([item is None or item.unlabelled for item in labels])
        misaligned = lacks | np.array([bool(item and item.misaligned and item.coherent) for item in labels])
        coherent = lacks | np.array([bool(item and item.coherent) for item in labels])
        index = {name: i for i, name in enumerate(prompts)}
        at = np.array([index[answer.prompt.id] for answer in self.answers])

        def count(mask: BoolArray) -> IntArray:
            return np.bincount(at[mask], minlength=len(index)).astype(np.int64)

        counts = LabelCounts(
            answers=count(np.ones_like(lacks)),
            flagged=count(self.flagged & misaligned),
            random=count(self.random),
            coherent=count(self.random & coherent),
            missed=count(self.random & ~self.flagged & misaligned),
        )
        unlabelled = int((lacks & (self.flagged | self.random)).sum())
        return OwnLabels(self.of.step, False, counts, int(self.flagged.sum()), unlabelled)


def label_sets(folder: Path, analysis: Analysis, random: int | None = None, seed: int = 0) -> list[LabelSet]:
    """The answers to label of the checkpoint of each run that would be released.

    Drawn are `random` random answers; None: as many as can clear the checkpoint.

    Raises:
        StoreError: The folder holds no judged answers, or not to every prompt.
    """
    manifest, stopping = read_manifest(folder), analysis.study
    runs, sets = {run.id: run for run in analysis.runs}, []
    about = manifest.stopping.about
    n = labels_to_clear(stopping.tolerance, (1 - stopping.confidence) / 2, stopping.benchmark.n_prompts, about)
    for released in verdict(analysis).runs:
        checkpoint = runs[released.run_id].at(released.step)
        assert checkpoint is not None
        key = next((k for k in _keys(manifest, checkpoint.weights) if open_store(folder).has("judgments", k)), None)
        if key is None:
            raise StoreError(
                f"run {released.run_id}, step {released.step} was asked random prompts, as many as its rule wanted",
                "no answers to every prompt",
                "answers whose number was fixed before",
                "audit this checkpoint, which asks every prompt, and label there: truing audit --checkpoints ...",
            )
        of = Drawn(run=released.run_id, step=released.step, judgments=key, random=random or n, seed=seed)
        answers = read_answers(open_store(folder), key, manifest.broad.benchmark)
        sets.append(LabelSet.draw(of, answers, manifest.evaluation))
    return sets


def count_labels(folder: Path, manifest: Manifest, run: str, weights: dict[int, str]) -> OwnLabels | None:
    """The labels of a run's checkpoint in a folder; None: there are none.

    `weights` are by step the hashes of the run's weights now.

    Raises:
        DataError: The file is damaged.
        ConfigError: The labels belong to other answers.
    """
    if not (folder / LABELS).is_file():
        return None
    drawn = [(item, item.drawn) for item in read_items(folder / LABELS) if item.drawn is not None]
    if strange := {source.run for _, source in drawn} - {each.id for each in manifest.runs}:
        todo = f"take them out of {LABELS}, or put it beside the answers that were labelled"
        raise ConfigError(f"{folder / LABELS} holds labels of a run that is not here", min(strange), todo=todo)
    sets = {source.model_copy(update={"seal": ""}) for _, source in drawn if source.run == run}
    if not sets:
        return None
    of, *more = sets
    keys = _keys(manifest, weights.get(of.step, ""))
    if more or of.judgments not in keys or not open_store(folder).has("judgments", of.judgments):
        raise ConfigError(
            f"{folder / LABELS} holds labels of other answers than those of run {run}",
            f"step {of.step}, judgments {of.judgments[:8]}" + (f", and {len(more)} more sets" if more else ""),
            "one set, of answers that are in the store",
            f"move {LABELS} away and label the answers that are there now: truing label {folder}",
        )
    answers = read_answers(open_store(folder), of.judgments, manifest.broad.benchmark)
    items, prompts = [item for item, source in drawn if source.run == run], manifest.broad.benchmark.prompts
    counted = LabelSet.draw(of, answers, manifest.evaluation).count(items, [prompt.id for prompt in prompts])
    return replace(counted, fresh=of.judgments == keys[0])


def _keys(manifest: Manifest, weights: str) -> tuple[str, str]:
    """The keys of a checkpoint's judged answers to every prompt: fresh ones, and those that it is evaluated by."""
    return key_of(manifest, weights, manifest.fresh, FRESH), key_of(manifest, weights, manifest.broad, FIXED)


def _hash(about: str | int, judgments: str, answer: JudgedAnswer) -> str:
    response = answer.response
    return content_key("label", about, judgments, response.prompt_id, response.sample, response.text)
