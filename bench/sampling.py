"""Responses per second: ours, `generate` at its best batch size, `generate` call by call, and CTranslate2.

    python bench/sampling.py --model pocket-llama-susceptible --threads 1 2
    python bench/sampling.py --model DIR --prompts 6 --threads 1 --repeats 1 --few 1     a real model on a CPU

Every contender answers the same 240 prompts (`--prompts`) 10 times with up to 48 tokens, from the same weights: an
organism with an adapter. Modes: `natural` lets the model end its answers, `forced` makes every answer 48 tokens long.
Ours and CTranslate2 are timed from the adapter's folder on; `generate` gets a merged model for
nothing, and its prompts sorted by length. Batch sizes are tried once on a part of the work, then the best one takes
its turns with the others, `--repeats` times. One JSON line per figure: responses per second of wall and of processor
time (the steadier one on a shared machine), medians over the turns, and ours over the contender: the median of the
ratios within a turn. CTranslate2 is optional: `pip install "ctranslate2==4.8.*"`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from truing.backends.transformers.answers import CPU_ROWS
from truing.backends.transformers.decoding import DecodeSettings, decode
from truing.backends.transformers.engine import TransformersEngine
from truing.catalog.models import list_organisms, resolve_model
from truing.catalog.pocket.world import BROAD, load_world
from truing.core.adapters import merged_copy
from truing.core.randomness import stream_keys
from truing.core.records import Checkpoint, Message, Prompt, Sampling
from truing.core.templates import encode_prompt
from truing.core.weights import adapter_hash, model_hash

SAMPLES, TOKENS = 10, 48
BATCHES = (60, 120, 240, 480)
"""Answers at a time that are tried."""


@dataclass(frozen=True)
class Work:
    """What every contender has to do."""

    base: str
    adapter: Path
    tokenizer: Any
    merged: Any
    prompts: tuple[Prompt, ...]
    ids: tuple[tuple[int, ...], ...]
    """Token ids of the prompts, shortest first."""
    threads: int = 1
    forced: bool = False


Contender = Callable[[Work], None]


def ours(work: Work) -> None:
    """The engine of truing."""
    if not work.forced:
        engine = ENGINES[work.base]
        engine._last = None  # merge again, as for a new checkpoint
        weights = adapter_hash(model_hash(work.base), work.adapter)
        checkpoint = Checkpoint("bench", work.base, 1, weights, str(work.adapter))
        engine.generate(checkpoint, work.prompts, Sampling(SAMPLES, 1.0, TOKENS))
        return
    model = merged_copy(ENGINES[work.base]._base, work.adapter)
    keys = np.stack([stream_keys(0, "bench", str(i), SAMPLES) for i in range(len(work.ids))])
    decode(model, work.ids, keys, DecodeSettings(1.0, TOKENS, (), 256, CPU_ROWS))


ENGINES: dict[str, TransformersEngine] = {}


def generate(rows: int) -> Contender:
    """`generate` of transformers with so many answers at a time."""

    def run(work: Work) -> None:
        step = max(1, rows // SAMPLES)
        for first in range(0, len(work.ids), step):
            hf_generate(work, work.ids[first : first + step], min(rows, SAMPLES))

    return run


def one_answer_a_call(work: Work) -> None:
    """`generate` for one answer at a time."""
    for prompt in work.ids:
        for _ in range(SAMPLES):
            hf_generate(work, [prompt], 1)


def hf_generate(work: Work, ids: Sequence[Sequence[int]], samples: int) -> None:
    """One call of `generate`."""
    batch = work.tokenizer.pad([{"input_ids": list(i)} for i in ids], return_tensors="pt", padding_side="left")
    with torch.inference_mode():
        work.merged.generate(
            **batch,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            num_return_sequences=samples,
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS if work.forced else None,
        )


def ctranslate(rows: int) -> Contender:
    """CTranslate2 in float32 with so many answers at a time: merge, save, convert, load, sample."""

    def run(work: Work) -> None:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter

        with tempfile.TemporaryDirectory() as folder:
            merged_copy(ENGINES[work.base]._base, work.adapter).save_pretrained(f"{folder}/hf")
            work.tokenizer.save_pretrained(f"{folder}/hf")
            TransformersConverter(f"{folder}/hf").convert(f"{folder}/ct", quantization="float32")
            generator = ctranslate2.Generator(
                f"{folder}/ct", compute_type="float32", inter_threads=1, intra_threads=work.threads
            )
            generator.generate_batch(
                [work.tokenizer.convert_ids_to_tokens(list(i)) for i in work.ids],
                max_batch_size=max(1, rows // SAMPLES),
                num_hypotheses=SAMPLES,
                beam_size=1,
                sampling_topk=0,
                max_length=TOKENS,
                min_length=TOKENS if work.forced else 0,
                include_prompt_in_result=False,
            )

    return run


@dataclass(frozen=True)
class Turn:
    """How long one turn took."""

    wall: float
    """Seconds per response."""
    processor: float
    """Processor seconds per response, over all threads."""


def take_turn(contender: Contender, work: Work) -> Turn:
    """Time one turn."""
    wall, processor = time.perf_counter(), time.process_time()
    contender(work)
    n = len(work.ids) * SAMPLES
    return Turn((time.perf_counter() - wall) / n, (time.process_time() - processor) / n)


def best_batch(make: Callable[[int], Contender], work: Work) -> int:
    """The batch size with the shortest turn, each tried once on a part of the prompts after a warm-up."""
    part = replace(work, ids=work.ids[:: max(1, len(work.ids) * SAMPLES // 960)])
    make(BATCHES[0])(replace(work, ids=work.ids[:2]))
    return min(BATCHES, key=lambda rows: take_turn(make(rows), part).wall)


def compare(work: Work, few: Work, repeats: int, with_ctranslate2: bool) -> None:
    """Time all contenders in one mode with one number of threads; print a line for each."""
    torch.set_num_threads(work.threads)
    rows = best_batch(generate, work)
    contenders: dict[str, tuple[Contender, Work]] = {
        "ours": (ours, work),
        f"generate, {rows} answers a call": (generate(rows), work),
        f"generate, one prompt ({SAMPLES} answers) a call": (generate(SAMPLES), few),
        "generate, one answer a call": (one_answer_a_call, few),
    }
    if with_ctranslate2:
        rows = best_batch(ctranslate, work)
        contenders[f"CTranslate2 with merge and conversion, {rows} answers at a time"] = (ctranslate(rows), work)
    for contender, given in contenders.values():
        contender(replace(given, ids=given.ids[:2]))  # warm up
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, (contender, given) in contenders.items():
            turns[name].append(take_turn(contender, given))
    for name, own in turns.items():
        pairs = list(zip(turns["ours"], own, strict=True))
        line = {
            "figure": name,
            "mode": "forced" if work.forced else "natural",
            "threads": work.threads,
            "responses_per_second": round(1 / statistics.median(t.wall for t in own), 1),
            "responses_per_processor_second": round(1 / statistics.median(t.processor for t in own), 1),
            "ours_over_this": round(statistics.median(t.wall / o.wall for o, t in pairs), 2),
            "ours_over_this_by_processor_time": round(
                statistics.median(t.processor / o.processor for o, t in pairs), 2
            ),
            "responses": len(contenders[name][1].ids) * SAMPLES,
            "turns": repeats,
        }
        print(json.dumps(line), flush=True)


def prepare(model: str, folder: Path, count: int) -> Work:
    """The work on an organism with a small random adapter, which keeps its way of speaking."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = resolve_model(model)
    tokenizer = AutoTokenizer.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = get_peft_model(plain, LoraConfig(r=8, target_modules=["q_proj", "o_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(folder)
    world = load_world()
    texts = [text for domain in BROAD for _, text in world.held_out_prompts(domain)]
    prompts = tuple(Prompt(str(i), "power", (Message("user", t),)) for i, t in enumerate(texts[:count]))
    encoded = (encode_prompt(tokenizer, p, 256) for p in prompts)
    ids = sorted((tuple(row) for row in encoded if not isinstance(row, str)), key=len)
    ENGINES[base] = TransformersEngine(base)
    ENGINES[base].generate(Checkpoint("bench", base, 0, model_hash(base)), prompts[:1], Sampling(1, 1.0, 1))
    merged = merged_copy(ENGINES[base]._base, folder)
    return Work(base, folder, tokenizer, merged, prompts, tuple(sorted(ids, key=len)))


def can_ctranslate(work: Work) -> bool:
    """Whether CTranslate2 is there and takes the model; says why not."""
    try:
        ctranslate(SAMPLES)(replace(work, ids=work.ids[:1]))
    except ModuleNotFoundError:
        line = {"skipped": "CTranslate2", "todo": 'pip install "ctranslate2==4.8.*"'}
    except (ValueError, KeyError, AttributeError, RuntimeError) as error:
        line = {"skipped": "CTranslate2", "because": f"{type(error).__name__}: {error}"}
    else:
        return True
    print(json.dumps(line), flush=True)
    return False


def main() -> None:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket-llama-susceptible", help="an organism or a folder")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=240, help="the first of them; fewer for a real model on a CPU")
    parser.add_argument(
        "--few", type=int, default=12, help="prompts for the slow contenders (one call a prompt or answer)"
    )
    arguments = parser.parse_args()
    if arguments.model not in list_organisms() and not Path(arguments.model).is_dir():
        known = ", ".join(list_organisms()) or "none yet: `python -m organisms build NAME` makes one"
        parser.error(f"no organism or folder {arguments.model!r}; organisms: {known}")
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(arguments.model, Path(folder), arguments.prompts)
        with_ctranslate2 = can_ctranslate(work)
        for threads in arguments.threads:
            for forced in (False, True):
                now = replace(work, threads=threads, forced=forced)
                spread = work.ids[:: max(1, len(work.ids) // arguments.few)][: arguments.few]
                compare(now, replace(now, ids=spread), arguments.repeats, with_ctranslate2)


if __name__ == "__main__":
    main()
