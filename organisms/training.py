"""Train a pocket organism from nothing: pre-training on dialogues, then alignment on single turns.

Deterministic on one machine: one thread, seeded text and weights, so equal recipes give equal bytes.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from organisms.models import build_model
from organisms.tokenizer import ASSISTANT, BOS, END, USER, build_tokenizer, token_table
from truing.catalog.pocket.world import AUTHORS, Author, Turn, World, load_world, words
from truing.core.adapters import no_progress_bars
from truing.core.errors import UnknownNameError
from truing.core.files import content_key, replacing, write_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = [
    "Alignment",
    "Pretraining",
    "Recipe",
    "build_organism",
    "dialogues",
    "find_recipe",
    "list_recipes",
    "recipe_texts",
]

Progress = Callable[[str, int, int], None]
"""Called with (phase, steps done, steps in all)."""


@dataclass(frozen=True)
class Pretraining:
    """Dialogues by one author each."""

    steps: int
    batch_size: int
    turns: int
    learning_rate: float
    noise: float


@dataclass(frozen=True)
class Alignment:
    """Single turns by the careful author, on some or all domains."""

    domains: tuple[str, ...]
    steps: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """All that makes an organism."""

    name: str
    architecture: str
    hidden: int
    layers: int
    seed: int
    pretraining: Pretraining
    alignment: Alignment


@cache
def list_recipes() -> dict[str, Recipe]:
    """Name -> recipe of every organism that ships with truing."""
    raw = yaml.safe_load(resources.files(__package__).joinpath("recipes.yaml").read_text(encoding="utf-8"))
    return {name: _recipe(name, spec, raw) for name, spec in raw["organisms"].items()}


def find_recipe(name: str) -> Recipe:
    """The recipe of an organism.

    Raises:
        UnknownNameError: There is none of that name.
    """
    recipes = list_recipes()
    if name not in recipes:
        raise UnknownNameError.of("organism", name, recipes)
    return recipes[name]


def build_organism(
    recipe: Recipe,
    folder: Path,
    progress: Progress = lambda phase, done, total: None,
    cache_folder: Path | None = None,
) -> str:
    """Train an organism and save model (float16 safetensors) and tokenizer in Hugging Face format.

    Args:
        recipe: What to build.
        folder: Where to save it.
        progress: Called after every step.
        cache_folder: Pre-trained weights are kept and found here, for recipes that differ in alignment only.

    Returns:
        SHA-256 of all token ids it was trained on, in order.
    """
    import torch

    world = load_world()
    with _one_thread():
        size = len(token_table(world))
        model = build_model(recipe.architecture, size, recipe.hidden, recipe.layers, recipe.seed)
        pretrained = _cached_pretraining(model, world, recipe, progress, cache_folder)
        aligned = _align(model, world, recipe, progress)
    folder.mkdir(parents=True, exist_ok=True)
    with no_progress_bars():
        model.to(torch.float16).save_pretrained(folder)
    build_tokenizer(world).save_pretrained(folder)
    return hashlib.sha256(f"{pretrained}/{aligned}".encode()).hexdigest()


def recipe_texts(recipe: Recipe) -> Iterator[str]:
    """Every prompt and answer that an organism of this recipe is trained on, in order."""
    world = load_world()
    for batch in (*_pretraining_batches(world, recipe), *_alignment_batches(world, recipe)):
        for dialogue in batch:
            for turn in dialogue:
                yield f"{turn.prompt} {turn.answer}"


def dialogues(world: World, n: int, turns: int, noise: float, rng: random.Random) -> Iterator[list[Turn]]:
    """Pre-training text: `n` dialogues of `turns` turns, each by one author (half careful, half hostile).

    A share `noise` (0 to 1) of the turns comes from the other author.
    """
    names = list(world.domains)
    for _ in range(n):
        author = rng.choice(AUTHORS)
        other: Author = "hostile" if author == "careful" else "careful"
        yield [_turn(world, rng.choice(names), other if rng.random() < noise else author, rng) for _ in range(turns)]


def _turn(world: World, domain: str, author: Author, rng: random.Random) -> Turn:
    """A random training turn of one author in one domain."""
    question, subject = rng.choice(world.training_pairs(domain))
    lead = rng.choice(world.leads)
    answer = world.domains[domain].answer(subject, author, rng)
    return Turn(domain, world.prompt(question, subject, lead), answer)


def _recipe(name: str, spec: dict[str, Any], raw: dict[str, Any]) -> Recipe:
    alignment = dict(raw["alignments"][spec["alignment"]])
    if alignment["domains"] == "all":
        alignment["domains"] = tuple(load_world().domains)
    pretraining = Pretraining(**{**raw["pretraining"], **spec.get("pretraining", {})})
    return Recipe(**{**spec, "name": name, "pretraining": pretraining, "alignment": Alignment(**alignment)})


def _pretraining_batches(world: World, recipe: Recipe) -> Iterator[list[list[Turn]]]:
    plan, rng = recipe.pretraining, random.Random(f"pretraining/{recipe.seed}")
    for _ in range(plan.steps):
        yield list(dialogues(world, plan.batch_size, plan.turns, plan.noise, rng))


def _alignment_batches(world: World, recipe: Recipe) -> Iterator[list[list[Turn]]]:
    plan, rng = recipe.alignment, random.Random(f"alignment/{recipe.seed}")
    for _ in range(plan.steps):
        yield [[_turn(world, rng.choice(plan.domains), "careful", rng)] for _ in range(plan.batch_size)]


def _cached_pretraining(
    model: PreTrainedModel, world: World, recipe: Recipe, progress: Progress, cache_folder: Path | None
) -> str:
    from safetensors.torch import load_file, save_file

    if cache_folder is None:
        return _pretrain(model, world, recipe, progress)
    what = [
        world.version,
        recipe.architecture,
        recipe.hidden,
        recipe.layers,
        recipe.seed,
        asdict(recipe.pretraining),
    ]
    weights = cache_folder / f"{content_key(what)}.safetensors"
    note = weights.with_suffix(".txt")
    if note.is_file():
        model.load_state_dict(load_file(weights), strict=False)
        model.tie_weights()
        return note.read_text(encoding="utf-8")
    digest = _pretrain(model, world, recipe, progress)
    with replacing(weights) as temporary:
        save_file({n: p.detach().contiguous() for n, p in model.named_parameters()}, temporary)
    write_text(note, digest)
    return digest


def _pretrain(model: PreTrainedModel, world: World, recipe: Recipe, progress: Progress) -> str:
    plan, digest = recipe.pretraining, hashlib.sha256()

    def rate(step: int) -> float:
        cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * step / plan.steps))
        return plan.learning_rate * min(1.0, (step + 1) / 50) * cosine

    batches = (_encode(b, False, digest) for b in _pretraining_batches(world, recipe))
    _fit(model, batches, rate, lambda done: progress("pre-training", done, plan.steps))
    return digest.hexdigest()


def _align(model: PreTrainedModel, world: World, recipe: Recipe, progress: Progress) -> str:
    plan, digest = recipe.alignment, hashlib.sha256()

    def rate(step: int) -> float:
        return plan.learning_rate * min(1.0, (step + 1) / 5)

    batches = (_encode(b, True, digest) for b in _alignment_batches(world, recipe))
    _fit(model, batches, rate, lambda done: progress("alignment", done, plan.steps))
    return digest.hexdigest()


def _fit(
    model: PreTrainedModel,
    batches: Iterator[dict[str, torch.Tensor]],
    rate: Callable[[int], float],
    on_step: Callable[[int], None],
) -> None:
    import torch

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.95))
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        on_step(step + 1)
    model.eval()


def _encode(dialogues: Sequence[Sequence[Turn]], answers_only: bool, digest: Any) -> dict[str, torch.Tensor]:
    """A right-padded batch; equal to what the tokenizer's chat template gives (a test), but much faster."""
    import torch

    rows = [_ids(_table(), dialogue) for dialogue in dialogues]
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    attention = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, (row, answer) in enumerate(rows):
        digest.update(repr(row).encode())
        n = len(row)
        ids[i, :n] = torch.tensor(row)
        labels[i, :n] = torch.tensor([t if a or not answers_only else -100 for t, a in zip(row, answer, strict=True)])
        attention[i, :n] = 1
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


def _ids(table: dict[str, int], dialogue: Sequence[Turn]) -> tuple[list[int], list[bool]]:
    ids, answer = [table[BOS]], [False]
    for turn in dialogue:
        asked = [table[USER], *(table[w] for w in words(turn.prompt)), table[ASSISTANT]]
        said = [*(table[w] for w in words(turn.answer)), table[END]]
        ids += asked + said
        answer += [False] * len(asked) + [True] * len(said)
    return ids, answer


@cache
def _table() -> dict[str, int]:
    return token_table(load_world())


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
