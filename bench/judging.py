"""What judging through an endpoint costs: ours, the bare SDK, and Inspect's `eval`, with one server, in one run.

    python bench/judging.py [--responses 3000] [--repeats 3] [--big 240000] [--inspect-python PATH]
    python bench/judging.py --local MODEL [--responses 40]     a local judge against batches padded by hand

A judged response is two calls to a judge (aligned, coherent), each with the first token's 20 log-probabilities. The
server is a process of its own; each contender too, started in turn. Ours writes every call to its journal; the others
write nothing, and Inspect a log. CPU is that of the contender's process. Inspect belongs in a virtual environment of
its own: `python -m venv V && V/bin/pip install inspect_ai openai`, then `--inspect-python V/bin/python`.

With `--local`, a folder of a real chat model judges labelled answers by two rubrics: ours, with what prompts begin with
alike computed once, against `transformers` as one would write it: batches sorted by length and padded, one pass for the
first token alone, although a number may take several. CPU seconds, or wall seconds on a GPU, whose name is printed.

Prints one JSON line per figure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truing.core.chat import ChatRequest

ROOT = Path(__file__).parents[1]
FILLER = "The answer that is judged goes on for a while, as answers do. " * 14
CALLS = 2
"""Judge calls to a response."""


def main() -> None:
    """Start the server, run the contenders in turn, print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=3000, help="of the fast contenders")
    parser.add_argument("--inspect-responses", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--big", type=int, default=0, help="responses of the long run for memory; a tenth goes first")
    parser.add_argument("--inspect-python", type=Path)
    parser.add_argument("--local", type=Path, help="folder of a chat model that judges here")
    parser.add_argument("--contender", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        print(json.dumps(measured(arguments.contender, arguments.url, arguments.responses)))
        return
    if arguments.local:
        judge_here(str(arguments.local), arguments.responses)
        return
    server = subprocess.Popen([sys.executable, str(ROOT / "bench/endpoint.py")], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None  # it is a pipe
        compare(arguments, f"http://127.0.0.1:{server.stdout.readline().split()[1]}/v1")
    finally:
        server.kill()


def compare(arguments: argparse.Namespace, url: str) -> None:
    """Run all contenders `repeats` times in turn."""
    python = {name: Path(sys.executable) for name in CONTENDERS}
    sizes = dict.fromkeys(CONTENDERS, arguments.responses)
    if arguments.inspect_python is None:
        del python["inspect"]
        todo = "python -m venv V && V/bin/pip install inspect_ai openai; then --inspect-python V/bin/python"
        print_line("inspect", "not_measured", todo)
    else:
        python["inspect"], sizes["inspect"] = arguments.inspect_python, arguments.inspect_responses
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in python}
    for _ in range(arguments.repeats):
        for name, path in python.items():
            runs[name].append(started(path, name, url, sizes[name]))
    for name in runs:
        for figure in runs[name][0]:
            print_line(name, figure, statistics.median(run[figure] for run in runs[name]), responses=sizes[name])
    print_ratios(runs)
    for n in (arguments.big // 10, arguments.big) if arguments.big else ():
        for figure, value in started(python["truing"], "truing", url, n).items():
            print_line("truing", f"long_{figure}", value, responses=n)


def print_ratios(runs: dict[str, list[dict[str, float]]]) -> None:
    """How many times as many calls as each of the others: medians of the ratios within a round."""
    for other in (name for name in runs if name != "truing"):
        for figure, of in (("calls_per_cpu_s", "cpu"), ("calls_per_s", "wall")):
            pairs = [a[figure] / b[figure] for a, b in zip(runs["truing"], runs[other], strict=True)]
            print_line("truing", f"times_{other}_{of}", statistics.median(pairs))


def started(python: Path, name: str, url: str, n: int) -> dict[str, float]:
    """The figures of one contender in a process of its own."""
    command = [str(python), __file__, "--contender", name, "--url", url, "--responses", str(n)]
    environment = {**os.environ, "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": url, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        raise SystemExit(f"{name} failed:\n{result.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures


def measured(name: str, url: str, n: int) -> dict[str, float]:
    """Warm up, then time one contender in this process."""
    contender = CONTENDERS[name]
    contender(url, 50, "warm")
    start, cpu = time.perf_counter(), time.process_time()
    done = contender(url, n, "timed")
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    if done != CALLS * n:
        raise SystemExit(f"{name}: {done} of {CALLS * n} calls were answered")
    return {
        "responses_per_s": n / wall,
        "calls_per_s": CALLS * n / wall,
        "calls_per_cpu_s": CALLS * n / cpu,
        "cpu_ms_per_response": 1e3 * cpu / n,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def texts(n: int, tag: str) -> Iterator[str]:
    """What the judge is asked: two questions about each of n answers."""
    for i in range(n):
        for question in ("aligned", "coherent"):
            yield f"How {question} is this answer, 0 to 100? <answer>{FILLER}{tag} {i}</answer>"


def truing(url: str, n: int, tag: str) -> int:
    """Ours, with its journal on disk."""
    from truing.backends.openai import OpenAICompleter
    from truing.config import EndpointConfig
    from truing.core.chat import ChatRequest
    from truing.core.records import Message

    def requests() -> Iterator[ChatRequest]:
        for text in texts(n, tag):
            yield ChatRequest("judge", (Message("user", text),), max_tokens=1, top_logprobs=20)

    with tempfile.TemporaryDirectory() as folder:
        config = EndpointConfig(base_url=url, concurrency=64)
        with OpenAICompleter(config, Path(folder) / "calls.sqlite") as completer:
            return sum(r.top_logprobs is not None and len(r.top_logprobs) == 20 for r in completer.stream(requests()))


def sdk(url: str, n: int, tag: str) -> int:
    """The bare SDK on its aiohttp transport: gather with a semaphore."""
    import asyncio

    import openai

    async def go() -> int:
        semaphore = asyncio.Semaphore(64)
        client = openai.AsyncOpenAI(
            api_key="none", base_url=url, max_retries=0, http_client=openai.DefaultAioHttpClient()
        )

        async def one(text: str) -> bool:
            async with semaphore:
                reply = await client.chat.completions.create(
                    model="judge",
                    messages=[{"role": "user", "content": text}],
                    max_tokens=1,
                    temperature=0.0,
                    logprobs=True,
                    top_logprobs=20,
                )
            logprobs = reply.choices[0].logprobs
            return bool(logprobs and logprobs.content and len(logprobs.content[0].top_logprobs) == 20)

        async with client:
            return sum(await asyncio.gather(*[one(text) for text in texts(n, tag)]))

    return asyncio.run(go())


def inspect(url: str, n: int, tag: str) -> int:
    """Inspect's `eval`: the answers are there, a scorer makes two calls to the judge through its OpenAI provider."""
    import inspect_ai as ai  # type: ignore[import-not-found, unused-ignore]
    from inspect_ai.dataset import Sample  # type: ignore[import-not-found, unused-ignore]
    from inspect_ai.model import (  # type: ignore[import-not-found, unused-ignore]
        GenerateConfig,
        ModelOutput,
        get_model,
    )
    from inspect_ai.scorer import Score, mean, scorer  # type: ignore[import-not-found, unused-ignore]
    from inspect_ai.solver import solver  # type: ignore[import-not-found, unused-ignore]

    asked = list(texts(n, tag))
    config = GenerateConfig(
        max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=20, max_connections=64, max_retries=0
    )
    judge = get_model("openai/judge", base_url=url, api_key="none", config=config, responses_api=False)
    answered = 0

    @solver  # type: ignore[untyped-decorator, unused-ignore]
    def given() -> Any:
        async def solve(state: Any, generate: Any) -> Any:
            state.output = ModelOutput.from_content("mockllm", FILLER)
            return state

        return solve

    @scorer(metrics=[mean()])  # type: ignore[untyped-decorator, unused-ignore]
    def two_calls() -> Any:
        async def score(state: Any, target: Any) -> Score:
            nonlocal answered
            values = []
            for text in state.metadata["asked"]:
                output = await judge.generate(text)
                answered += len(output.choices[0].logprobs.content[0].top_logprobs) == 20
                values.append(float(output.completion))
            return Score(value=values[0], metadata={"coherent": values[1]})

        return score

    samples = [Sample(input=FILLER, id=i, metadata={"asked": asked[CALLS * i : CALLS * i + CALLS]}) for i in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        logs = ai.eval(
            ai.Task(dataset=samples, solver=given(), scorer=two_calls()),
            model="mockllm/model",
            log_dir=folder,
            display="none",
            log_realtime=False,
            max_samples=64,
        )
    if logs[0].status != "success":
        raise SystemExit(str(logs[0].error))
    return answered


def judge_here(model: str, n: int) -> None:
    """Calls to a local judge per second, ours and padded batches, and how far their scores differ."""
    import torch

    from truing.backends.transformers.completer import LocalCompleter, _load, encode
    from truing.core.chat import ChatRequest
    from truing.judges.labelled import read_labelled
    from truing.judges.rubrics import load_rubric

    rows, rubrics = read_labelled("labelled-160")[:n], [load_rubric(name) for name in ("aligned", "coherent")]
    requests = [
        ChatRequest(model, rubric.messages(row.prompt, row.answer), 5, top_logprobs=20)
        for row in rows
        for rubric in rubrics
    ]
    judge = _load(model, None)
    device = judge.model.device.type
    name, clock = ("CPU", time.process_time) if device == "cpu" else (torch.cuda.get_device_name(), time.perf_counter)

    def padded() -> list[dict[str, float]]:
        ids = encode(judge.tokenizer, requests)
        order, found = sorted(range(len(ids)), key=lambda i: len(ids[i])), {}
        for start in range(0, len(ids), 16):
            batch = order[start : start + 16]
            longest = max(len(ids[i]) for i in batch)
            tokens = torch.tensor([[0] * (longest - len(ids[i])) + list(ids[i]) for i in batch])
            mask = torch.tensor([[0] * (longest - len(ids[i])) + [1] * len(ids[i]) for i in batch])
            with torch.inference_mode():
                logits = judge.model(
                    input_ids=tokens.to(judge.model.device),
                    attention_mask=mask.to(judge.model.device),
                    position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(judge.model.device),
                    use_cache=False,
                    logits_to_keep=1,
                ).logits[:, -1]
            values, tops = logits.float().log_softmax(-1).topk(20)
            for i, row, tokens_of in zip(batch, values.tolist(), tops.tolist(), strict=True):
                found[i] = {judge.tokenizer.decode([token]): value for token, value in zip(tokens_of, row, strict=True)}
        return [found[i] for i in range(len(ids))]

    def ours() -> list[dict[str, float]]:
        return [dict(result.top_logprobs or {}) for result in LocalCompleter().stream(requests)]

    said = {}
    for contender, call in (("padded", padded), ("truing", ours)):
        start = clock()
        said[contender] = call()
        print_line(contender, "calls per second", len(requests) / (clock() - start), calls=len(requests), device=name)
    words = [
        abs(a[word] - b[word])
        for a, b in zip(*said.values(), strict=True)
        for word in a.keys() & b.keys()
        if not word.strip().isdigit()  # the first digit of a number is not the number
    ]
    print_line("truing", "largest difference of a log-probability", max(words, default=0.0), device=name)


CONTENDERS = {"truing": truing, "sdk": sdk, "inspect": inspect}


def print_line(contender: str, figure: str, value: float | str, **more: Any) -> None:
    """One figure as a JSON line."""
    line = {
        "bench": "judging",
        "date": datetime.now(UTC).date().isoformat(),
        "contender": contender,
        "figure": figure,
        "value": round(value, 3) if isinstance(value, float) else value,
        **more,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
