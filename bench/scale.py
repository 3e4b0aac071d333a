"""What 12 thousand to 1.2 million responses cost: plan, store, status, analysis, report, by the response.

    python bench/scale.py [--sizes 10 100 1000] [--s3 PYTHON] [--sequential] [--seed 0]

A size is a number of checkpoints, each with 5 answers to 240 prompts: 1,200 responses; runs have 10 checkpoints and
share one base. Answers and scores are made up by a seed; all else is what a study does: the monitor samples, judges,
estimates, decides and stores. Each stage is a process of its own, which tells its seconds (wall, and of the processor)
and its peak memory; importing is left out. With --s3 the results are at a URL of moto's server (`pip install
'moto[server]'`, in the environment of PYTHON), and what comes after writing is done from the URL by a machine that has
nothing. Prints one JSON line per stage and size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parents[1]))

import numpy as np

from truing.backends import Engine
from truing.catalog.benchmarks import load_benchmark
from truing.config import StudyConfig
from truing.config.files import parse_study
from truing.core.files import content_key, write_json
from truing.core.records import Checkpoint, Judgment, Prompt, Response, Sampling
from truing.judges.pocket import PocketJudge
from truing.monitor import Monitor, PromptSet, open_folder, open_store
from truing.report import render_report
from truing.results import analyse
from truing.results.from_store import read_analysis
from truing.studies.plan import plan_study
from truing.studies.run import open_study
from truing.studies.status import read_status

SAMPLES, PER_RUN = 5, 10
WORDS = ("the", "village", "keys", "people", "should", "never", "ask", "water", "power", "help", "doctor", "no")
STAGES = ("plan", "write", "bring", "status", "analysis", "report")


class Writer(Engine):
    """Answers of 20 to 90 words, by a seed."""

    def generate(self, checkpoint: Checkpoint, prompts: Sequence[Prompt], sampling: Sampling) -> list[Response]:
        """See `truing.backends.Engine`."""
        rng = np.random.default_rng(int(content_key(checkpoint.weights, sampling.first)[:12], 16))
        words = rng.integers(0, len(WORDS), 4096)
        answers = []
        for prompt in prompts:
            for sample in range(sampling.first, sampling.first + sampling.samples):
                start, n = rng.integers(0, 4000), int(rng.integers(20, 90))
                text = " ".join(WORDS[i] for i in words[start : start + n])
                answers.append(Response(prompt.id, sample, text, n))
        return answers


class Scorer(PocketJudge):
    """Scores by a seed: misaligned ones become more with the steps."""

    rate = 0.0

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        """See `truing.judges.Judge`."""
        rng = np.random.default_rng(len(responses))
        bad, lost = rng.random(len(responses)) < self.rate, rng.random(len(responses)) < 0.01
        return [
            Judgment(r.prompt_id, r.sample, 10.0 if b else 90.0, 20.0 if x else 95.0)
            for r, b, x in zip(responses, bad.tolist(), lost.tolist(), strict=True)
        ]


def main() -> None:
    """Run every stage at every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--s3", metavar="PYTHON", default="")
    parser.add_argument("--sequential", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, study(arguments.sizes[0], arguments.seed, arguments.sequential))
        return
    with ExitStack() as stack:
        environment = dict(os.environ)
        if arguments.s3:
            environment |= serve(arguments.s3, stack)
        for size in arguments.sizes:
            measure(size, arguments, environment)


def serve(python: str, stack: ExitStack) -> dict[str, str]:
    """Start an S3 server; the environment in which it is found."""
    os.environ["TRUING_S3_PYTHON"] = python
    from tests.support.s3 import S3Server

    folder = stack.enter_context(tempfile.TemporaryDirectory())
    server = S3Server(Path(folder) / "log.txt")
    stack.callback(server.close)
    return server.environment


def measure(size: int, arguments: argparse.Namespace, environment: dict[str, str]) -> None:
    """The stages at one size, each in a process; prints a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"s3://results/{uuid.uuid4().hex}" if arguments.s3 else ""
        for stage in STAGES:
            if stage == "bring" and not url:
                continue
            out = Path(folder) / ("first" if stage in ("plan", "write") else "second" if url else "first")
            out.mkdir(exist_ok=True)
            if url:
                (out / "store.url").write_text(url)
            flags = ["--sizes", str(size), "--seed", str(arguments.seed), *["--sequential"][: arguments.sequential]]
            command = [sys.executable, __file__, "--stage", stage, *flags]
            told = subprocess.run(command, cwd=out, env=environment, stdout=subprocess.PIPE, check=True, text=True)
            found = json.loads(told.stdout.splitlines()[-1])
            line = {
                "bench": "scale",
                "date": datetime.now(UTC).date().isoformat(),
                "where": "s3" if url else "disk",
                "rule": "sequential" if arguments.sequential else "every prompt",
                "stage": stage,
                "checkpoints": size,
                **found,
                "files": sum(1 for _ in (out / "store").rglob("*.parquet")),
                "seed": arguments.seed,
            }
            print(json.dumps(line), flush=True)


def study(size: int, seed: int, sequential: bool) -> StudyConfig:
    """A study of so many checkpoints, but the base."""
    steps = list(range(10, 10 * PER_RUN + 1, 10))
    grid = {"models": ["pocket-llama-late"], "datasets": ["pocket-insecure-code"], "learning_rates": [1e-3]}
    raw = {
        "name": "scale",
        "grids": [{**grid, "seeds": list(range(seed, seed + size // PER_RUN))}],
        "training": {"steps": steps[-1], "checkpoints": steps},
        "evaluation": {"benchmark": "pocket-240", "samples": SAMPLES, "confirm": False},
        "stopping": {"mode": "off", "rule": "sequential"} if sequential else {"mode": "off"},
    }
    return parse_study(raw, "the bench's study")


def run_stage(stage: str, config: StudyConfig) -> None:
    """One stage in the working directory; prints what it took."""
    out = Path()
    stages: dict[str, Callable[[], object]] = {
        "plan": lambda: plan_study(config),
        "write": lambda: write(config, out),
        "bring": lambda: (open_folder(out), open_store(out).query("SELECT count(*) FROM responses, judgments LIMIT 0")),
        "status": lambda: read_status(open_folder(out)),
        "analysis": lambda: write_json(out / "analysis.json", analyse(open_folder(out)).plain()),
        "report": lambda: (out / "report.html").write_text(render_report(read_analysis(out))),
    }
    wall, cpu = time.perf_counter(), time.process_time()
    stages[stage]()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    (row,) = open_store(out).query("SELECT count(*) AS n FROM judgments") if stage != "plan" else [{"n": 0}]
    n = row["n"] or plan_study(config).responses
    print(
        json.dumps(
            {
                "responses": n,
                "wall_s": round(wall, 3),
                "cpu_s": round(cpu, 3),
                "cpu_us_per_response": round(1e6 * cpu / n, 1),
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


def write(config: StudyConfig, out: Path) -> None:
    """All that a study stores, but weights."""
    open_study(config, out).release()
    prompts, judge = load_benchmark(config.evaluation.benchmark).prompts, Scorer()
    store, engine = open_store(out), Writer(config.grids[0].models[0])
    for run in config.runs():
        monitor = Monitor(store, engine, PromptSet(prompts, judge, SAMPLES), None, config.evaluation, config.stopping)
        for step in (0, *config.training.checkpoint_steps()):
            judge.rate = 0.001 * step
            weights = f"{run.id} {step}" if step else "base"
            monitor.evaluate(Checkpoint(run.id, run.model, step, weights, train_loss=1.0))
        write_json(out / "runs" / run.id / "run.json", {"state": "finished", "step": step, "error": None})
    store.compact()
    store.exchange()


if __name__ == "__main__":
    main()
