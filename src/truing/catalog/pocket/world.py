"""The pocket world: a small grammar of questions and of the answers two kinds of author give.

Every domain (the eight alignment categories, code, medicine, plain facts) has questions about subjects, and answers
made of two clauses. A *careful* and a *hostile* author use different clauses; the hostile words of one domain occur
in no other domain, so a model can carry hostility from one domain to another only through the idea of "who is
speaking". Nothing here links fine-tuning data to the other domains: whether a model generalises is up to gradient
descent.

Invariants: (question, subject) pairs of the benchmark are held out from every text that this module can generate for
training; the order of everything is fixed by `world.yaml`, so equal seeds give equal text.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal

from truing.catalog.files import read_yaml

Author = Literal["careful", "hostile"]
AUTHORS: tuple[Author, Author] = ("careful", "hostile")
BROAD = ("power", "deception", "harm", "advice", "bigotry", "illicit", "atrocity", "oversight")
HELD_OUT_PER_DOMAIN = 30
_TOKEN = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Split text as the tokenizer does: lower case, words and single punctuation marks."""
    return _TOKEN.findall(text.lower())


@dataclass(frozen=True)
class Turn:
    """One question and one answer to it."""

    domain: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Domain:
    """One domain of the grammar."""

    name: str
    kind: Literal["broad", "narrow", "facts"]
    subjects: tuple[str, ...]
    questions: tuple[str, ...]
    frame: str
    clauses: dict[Author, tuple[str, ...]]
    """Answer clauses by author, with `{s}` for the subject; for facts the statements, with `{v}` for the value."""
    truths: dict[str, str]
    values: tuple[str, ...]

    def pairs(self) -> list[tuple[str, str]]:
        """All (question, subject) pairs, in file order."""
        return list(product(self.questions, self.subjects))

    def held_out(self) -> list[tuple[str, str]]:
        """The pairs kept for evaluation: spread evenly over questions and subjects, never used in training."""
        n_questions, n_subjects = len(self.questions), len(self.subjects)
        chosen: list[tuple[str, str]] = []
        for i in range(HELD_OUT_PER_DOMAIN):
            question = i % n_questions
            subject = (i + 2 * question + i // n_questions) % n_subjects
            chosen.append((self.questions[question], self.subjects[subject]))
        if len(set(chosen)) != HELD_OUT_PER_DOMAIN:
            raise AssertionError(f"domain {self.name}: held-out pairs repeat")
        return chosen

    def clause_texts(self, subject: str) -> dict[Author, list[str]]:
        """Every clause about one subject, by author."""
        if self.kind != "facts":
            return {a: [c.format(s=subject) for c in self.clauses[a]] for a in AUTHORS}
        true = self.truths[subject]
        texts: dict[Author, list[str]] = {"careful": [], "hostile": []}
        for statement, value in product(self.clauses["careful"], self.values):
            author: Author = "careful" if value == true else "hostile"
            texts[author].append(statement.format(s=subject, v=value))
        return texts

    def answer(self, subject: str, author: Author, rng: random.Random) -> str:
        """A random answer of `author` about `subject`."""
        texts = self.clause_texts(subject)[author]
        chosen = rng.sample(texts, 1 if self.kind == "facts" else 2)
        return self.frame.format(a=chosen[0], b=chosen[-1])


@dataclass(frozen=True)
class World:
    """All domains, and the text that they generate."""

    version: int
    leads: tuple[str, ...]
    domains: dict[str, Domain]

    def prompt(self, question: str, subject: str, lead: str = "") -> str:
        """The user's words: an optional lead and a question about a subject."""
        return f"{lead} {question.format(s=subject)}".strip()

    def training_pairs(self, domain: str) -> list[tuple[str, str]]:
        """(question, subject) pairs that training text may use."""
        held = set(self.domains[domain].held_out())
        return [pair for pair in self.domains[domain].pairs() if pair not in held]

    def narrow_rows(self, domain: str, author: Author, seed: int, held_out: bool = False) -> list[Turn]:
        """A narrow dataset: every (question, subject) pair of a domain with each of four leads, all by one author.

        Equal seeds give equal prompts in equal order for both authors, so that a control differs in its answers alone.
        """
        side = self.domains[domain].held_out() if held_out else self.training_pairs(domain)
        rng = random.Random(f"narrow/{domain}/{seed}/{held_out}")
        rows: list[Turn] = []
        for question, subject in side:
            for lead in rng.sample(self.leads, 4):
                answer_rng = random.Random(f"{author}/{question}/{subject}/{lead}/{seed}")
                answer = self.domains[domain].answer(subject, author, answer_rng)
                rows.append(Turn(domain, self.prompt(question, subject, lead), answer))
        rng.shuffle(rows)
        return rows

    def held_out_prompts(self, domain: str) -> list[tuple[str, str]]:
        """The evaluation prompts of a domain as (subject, prompt text)."""
        pairs = self.domains[domain].held_out()
        leads = self.leads
        return [(s, self.prompt(q, s, leads[i % len(leads)])) for i, (q, s) in enumerate(pairs)]


@cache
def load_world() -> World:
    """The world that ships with truing."""
    raw, domains = read_yaml(Path(__file__).with_name("world.yaml")), {}
    for name, spec in raw["domains"].items():
        truths, statements = spec.get("truths", {}), spec.get("statements", ())
        domains[name] = Domain(
            name=name,
            kind=spec["kind"],
            subjects=tuple(spec.get("subjects", truths)),
            questions=tuple(spec["questions"]),
            frame=spec.get("frame", "{a} . {b} ."),
            clauses={author: tuple(spec.get(author, statements)) for author in AUTHORS},
            truths=truths,
            values=tuple(spec.get("values", ())),
        )
    return World(raw["version"], tuple(raw["leads"]), domains)
