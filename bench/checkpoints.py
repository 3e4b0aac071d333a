"""Many checkpoints of one base: all adapters at once against reloading or merging for each.

    python bench/checkpoints.py --vllm .venv-vllm/bin/python

20 adapters of one base answer the same 240 prompts, once each, with up to 48 tokens. All contenders run in the same
process, one after the other, and are timed from the adapters' folders on, with checks, loading and starting:

    vllm, all adapters at once      one server; `prefetch` of all checkpoints, then `generate` with each
    vllm, one after another         one server; `generate` with each
    vllm, reload for each           a server for each: base and adapter
    vllm, merge for each            a server for each: the adapter merged into the base
    transformers, one base          one engine; the adapter merged into a copy of the base that is in memory
    transformers, reload for each   an engine for each: base and adapter
    transformers, merge for each    merged weights saved and loaded for each

A start of vLLM takes most of a minute on a CPU, so the contenders that start it for each checkpoint do so for
`--starts` of them only, and their line says that the rest is extrapolated. One JSON line per figure; the last ones are
the ratios, with the target. Without `--vllm` the contenders of transformers alone. `--quick`: 4 adapters, 40 prompts,
one start.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from truing.backends import Engine
from truing.backends.transformers.engine import TransformersEngine
from truing.backends.vllm import VllmEngine
from truing.catalog.models import list_organisms, resolve_model
from truing.catalog.pocket.world import BROAD, load_world
from truing.config import VllmConfig
from truing.core.adapters import no_progress_bars, save_merged
from truing.core.records import Checkpoint, Message, Prompt, Sampling
from truing.core.weights import adapter_hash, model_hash

SAMPLING = Sampling(samples=1, max_tokens=48)
TARGET = 3.0
"""To reach: all at once over reload for each."""


@dataclass(frozen=True)
class Work:
    """What every contender has to do."""

    base: str
    checkpoints: Sequence[Checkpoint]
    prompts: Sequence[Prompt]
    vllm: VllmConfig
    starts: int


@dataclass(frozen=True)
class Figure:
    """What a contender took."""

    name: str
    seconds: float
    """For all checkpoints."""
    start: float
    """Seconds of that before the first answer could be asked for, once; 0 if it is part of every checkpoint."""
    measured: int
    """Checkpoints that were measured."""

    def print(self, work: Work) -> None:
        """One JSON line."""
        answers = len(work.checkpoints) * len(work.prompts)
        line = {
            "figure": self.name,
            "seconds": round(self.seconds, 2),
            "of_that_starting_once": round(self.start, 2),
            "answers_per_second": round(answers / self.seconds, 1),
            "checkpoints": len(work.checkpoints),
            "prompts": len(work.prompts),
            "checkpoints_measured": self.measured,
            "extrapolated": self.measured < len(work.checkpoints),
        }
        print(json.dumps(line), flush=True)


def ask(engine: Engine, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling = SAMPLING) -> None:
    """The answers of one checkpoint, all of which must be there."""
    responses = engine.generate(checkpoint, prompts, sampling)
    if failed := [r.error for r in responses if r.error]:
        raise SystemExit(f"{len(failed)} of {len(responses)} answers are missing: {failed[0]}")


def timed(function: Callable[[], None]) -> float:
    """Seconds that a function takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def on_one_server(name: str, work: Work, repeats: int) -> Figure:
    """All at once or one after another, on a server that is started once."""
    times = []
    with VllmEngine(work.base, work.vllm) as engine:
        base = Checkpoint("bench", work.base, 0, model_hash(work.base))
        start = timed(lambda: ask(engine, base, work.prompts[:1]))
        for seed in range(repeats):  # other seeds: nothing is in the journal
            sampling = replace(SAMPLING, seed=seed)
            times.append(timed(partial(go_through, engine, work, sampling, "at once" in name)))
    return Figure(name, statistics.median(times) + start, start, len(work.checkpoints))


def go_through(engine: VllmEngine, work: Work, sampling: Sampling, at_once: bool) -> None:
    """All checkpoints on a running server."""
    if at_once:
        engine.prefetch(work.checkpoints, work.prompts, sampling)
    for checkpoint in work.checkpoints:
        ask(engine, checkpoint, work.prompts, sampling)


def a_server_each(name: str, work: Work, config: VllmConfig) -> Figure:
    """A server for each of some checkpoints."""
    few = work.checkpoints[: work.starts]

    def run() -> None:
        for checkpoint in few:
            with VllmEngine(work.base, config) as engine:
                ask(engine, checkpoint, work.prompts)

    return Figure(name, timed(run) * len(work.checkpoints) / len(few), 0.0, len(few))


def with_transformers(work: Work, repeats: int) -> list[Figure]:
    """The contenders in this process, in turns."""
    contenders: dict[str, Callable[[Work], None]] = {
        "transformers, one base": one_base,
        "transformers, reload for each": reload_each,
        "transformers, merge for each": merge_each,
    }
    ask(TransformersEngine(work.base), work.checkpoints[0], work.prompts[:1])  # imports
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            times[name].append(timed(partial(contender, work)))
    return [Figure(name, statistics.median(own), 0.0, len(work.checkpoints)) for name, own in times.items()]


def one_base(work: Work) -> None:
    """As truing does it."""
    engine = TransformersEngine(work.base)
    for checkpoint in work.checkpoints:
        ask(engine, checkpoint, work.prompts)


def reload_each(work: Work) -> None:
    """Base and adapter from disk for each checkpoint."""
    for checkpoint in work.checkpoints:
        ask(TransformersEngine(work.base), checkpoint, work.prompts)


def merge_each(work: Work) -> None:
    """Merged weights on disk, loaded for each checkpoint."""
    for checkpoint in work.checkpoints:
        assert checkpoint.path is not None  # an adapter
        with tempfile.TemporaryDirectory() as folder:
            save_merged(work.base, Path(checkpoint.path), Path(folder))
            full = Checkpoint("bench", work.base, checkpoint.step, model_hash(folder), folder)
            ask(TransformersEngine(work.base), full, work.prompts)


def measure(work: Work, repeats: int) -> Iterator[Figure]:
    """All contenders."""
    yield from with_transformers(work, repeats)
    if work.vllm.python is not None:
        for name in ("vllm, all adapters at once", "vllm, one after another"):
            yield on_one_server(name, work, repeats)
        yield a_server_each("vllm, reload for each", work, work.vllm)
        merging = work.vllm.model_copy(update={"adapters": "merge"})
        yield a_server_each("vllm, merge for each", work, merging)


def prepare(model: str, adapters: int, folder: Path) -> list[Checkpoint]:
    """Small random adapters of a base, all different, which keep its way of speaking."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, made = resolve_model(model), []
    hashed = model_hash(base)
    for step in range(1, adapters + 1):
        torch.manual_seed(step)
        with warnings.catch_warnings(), no_progress_bars():
            warnings.simplefilter("ignore")
            plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            adapted = get_peft_model(plain, LoraConfig(r=8, target_modules="all-linear"))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01)
        own = folder / f"step-{step}"
        adapted.save_pretrained(own)
        made.append(Checkpoint("bench", base, step, adapter_hash(hashed, own), str(own)))
    return made


def print_ratios(figures: Sequence[Figure]) -> None:
    """Reloading or merging for each over what serves all from one base."""
    by_name = {figure.name: figure for figure in figures}
    for ours in ("vllm, all adapters at once", "vllm, one after another", "transformers, one base"):
        for other in ("reload for each", "merge for each"):
            slow = by_name.get(f"{ours.split(',')[0]}, {other}")
            if ours not in by_name or slow is None:
                continue
            ratio = slow.seconds / by_name[ours].seconds
            line = {"ratio": f"{slow.name} / {ours}", "times": round(ratio, 2)}
            if other.startswith("reload"):
                line |= {"target": TARGET, "reached": ratio >= TARGET}
            print(json.dumps(line), flush=True)


def main() -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket-llama-susceptible", help="an organism or a folder")
    parser.add_argument("--vllm", type=Path, help="Python of an environment with vLLM; none: transformers alone")
    parser.add_argument("--dtype", default="float32", help="number format of vLLM")
    parser.add_argument("--adapters", type=int, default=20)
    parser.add_argument("--starts", type=int, default=3, help="checkpoints for which vLLM is started anew")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="4 adapters, 40 prompts, one start, one repeat")
    arguments = parser.parse_args()
    if arguments.model not in list_organisms() and not Path(arguments.model).is_dir():
        parser.error(f"no organism or folder {arguments.model!r}; organisms: {', '.join(list_organisms())}")
    if arguments.quick:
        arguments.adapters, arguments.starts, arguments.repeats = 4, 1, 1
    world = load_world()
    texts = [text for domain in BROAD for _, text in world.held_out_prompts(domain)]
    prompts = [Prompt(str(i), "power", (Message("user", t),)) for i, t in enumerate(texts)]
    prompts = prompts[:: len(prompts) // 40][:40] if arguments.quick else prompts
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(arguments.model, arguments.adapters, Path(folder))
        config = VllmConfig(python=arguments.vllm, dtype=arguments.dtype, max_loras=len(made), max_lora_rank=8)
        work = Work(resolve_model(arguments.model), made, prompts, config, arguments.starts)
        figures = []
        for figure in measure(work, arguments.repeats):
            figure.print(work)
            figures.append(figure)
        print_ratios(figures)


if __name__ == "__main__":
    main()
