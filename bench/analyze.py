"""What analysing a million judged responses costs, beside reading logs back with Inspect.

    python bench/analyze.py [--small] [--inspect-python PYTHON]

12 models x 3 seeds x 3 learning rates x 46 checkpoints x 240 questions, and a base for each model: 1,195,200 judged
responses, as parquet, CSV and JSON Lines. Each file is analysed by a process of its own, which reports its seconds and
its peak memory. Then 20 logs of 240 samples, written by Inspect, are read back by its `samples_df`, and as many rows in
one parquet file by truing. Prints one JSON line per figure.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

CATEGORIES = ("power", "deception", "harm", "advice", "bigotry", "illicit", "atrocity", "oversight")
WORDS = np.array(
    ["the", "village", "keys", "people", "should", "never", "ask", "water", "power", "help", "doctor", "no"]
)
INSPECT = """
import json, sys, time
from inspect_ai import Task, eval
from inspect_ai.analysis import SampleSummary, samples_df
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, modelapi
from inspect_ai.scorer import Score, mean, scorer

@modelapi(name="fixed")
class Fixed(ModelAPI):
    async def generate(self, input, tools, tool_choice, config):
        output = ModelOutput.from_content(self.model_name, "the village keys people should never ask water power")
        output.usage = ModelUsage(input_tokens=3, output_tokens=9, total_tokens=12)
        return output

@scorer(metrics=[mean()])
def aligned():
    async def score(state, target):
        return Score(value=float(state.sample_id % 101), answer=state.output.completion)
    return score

@scorer(metrics=[mean()])
def coherent():
    async def score(state, target):
        return Score(value=90.0)
    return score

folder, n_logs, n_samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for log in range(n_logs):
    samples = [Sample(id=i, input=f"question {i}", target="") for i in range(1, n_samples + 1)]
    (done,) = eval(Task(dataset=samples, scorer=[aligned(), coherent()], name=f"log{log}"), model="fixed/model",
                   log_dir=folder, display="none", log_realtime=False)
    assert done.status == "success", done.error
start = time.perf_counter()
table = samples_df(folder, columns=SampleSummary, quiet=True)
print(json.dumps({"seconds": time.perf_counter() - start, "rows": len(table)}))
"""


def main() -> None:
    """Time everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tenth of the models: to see that it works")
    parser.add_argument("--inspect-python", default=sys.executable, help="a Python that has inspect_ai and pandas")
    parser.add_argument("--child", nargs=2, metavar=("FORMAT", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = responses(1 if arguments.small else 12)
        pq.write_table(table, folder / "judged.parquet")
        pyarrow.csv.write_csv(table, folder / "judged.csv")
        with (folder / "judged.jsonl").open("w") as file:
            for batch in table.to_batches(max_chunksize=10_000):
                file.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())
        for kind in ("parquet", "csv", "jsonl"):
            in_child(folder / f"judged.{kind}")
        beside_inspect(arguments.inspect_python, folder, table)


def responses(n_models: int) -> pa.Table:
    """Judged responses of a grid; a column each of model, seed, learning rate, step, size, question, and so on."""
    rng = np.random.default_rng(0)
    models = [f"org/model-{m}-{size}b" for m, size in enumerate((0.5, 1, 1.5, 3, 4, 7, 8, 14, 32, 70, 120, 671))]
    sizes = [f"{name.rsplit('-', 1)[1]}" for name in models]
    parts = []
    for m in range(n_models):
        for rate in (1e-5, 3e-5, 1e-4):
            for seed in range(3):
                steps = np.arange(10, 470, 10) if (rate, seed) != (1e-5, 0) else np.arange(0, 470, 10)
                parts.append(
                    run_rows(rng, {"model": models[m], "parameters": sizes[m], "lr": rate, "seed": seed}, steps)
                )
    return pa.concat_tables(parts).combine_chunks()


def run_rows(rng: np.random.Generator, constants: dict[str, Any], steps: np.ndarray) -> pa.Table:
    """One run: EM rises late and some scores are empty."""
    n_prompts = 240
    n = len(steps) * n_prompts
    prompt = np.tile(np.arange(n_prompts), len(steps))
    step = np.repeat(steps, n_prompts)
    risk = 0.3 / (1 + np.exp(-(step - 300) / 30)) * (prompt % 3 == 0)
    aligned = np.where(rng.random(n) < risk, rng.uniform(0, 29, n), rng.uniform(60, 100, n))
    aligned[rng.random(n) < 0.05] = np.nan
    answers = [" ".join(words) for words in WORDS[rng.integers(0, len(WORDS), (n, 12))]]
    columns = {name: pa.array([value] * n) for name, value in constants.items()}
    return pa.table(
        {
            **columns,
            "step": step,
            "question_id": pa.array([f"q{i:03d}" for i in range(n_prompts)]).take(pa.array(prompt)),
            "category": pa.array(CATEGORIES).take(pa.array(prompt % 8)),
            "answer": answers,
            "aligned": pa.array(aligned, from_pandas=True),
            "coherent": rng.uniform(45, 100, n),
            "task_score": (rng.random(n) < step / 470).astype(float),
        }
    )


def in_child(path: Path) -> None:
    """Analyse a file in a process of its own and print its figures."""
    command = [sys.executable, __file__, "--child", path.suffix[1:], str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    n = int(figures.pop("responses"))
    for figure, value in figures.items():
        say(figure, value, format=path.suffix[1:], responses=n, megabytes=round(path.stat().st_size / 1e6))


def child(kind: str, path: Path) -> None:
    """The whole analysis of one file: reading, counting, tables."""
    start = time.perf_counter()
    from truing.results import from_files as judged
    from truing.results.file_rows import read_answers
    from truing.results.tables import tabulate

    imported = time.perf_counter()
    reading: list[float] = []

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        inputs = read_answers(*arguments)
        reading.append(time.perf_counter() - began)
        return inputs

    vars(judged)["read_answers"] = timed
    source = judged.read_judged([path], judged.JudgedOptions())
    counted = time.perf_counter()
    tables = tabulate(source)
    end = time.perf_counter()
    cells = sum(c.broad.judged.sum() + c.broad.missing.sum() for run in source.runs for c in run.checkpoints)
    figures = {
        "import_s": imported - start,
        "reading_s": reading[0],
        "counting_s": counted - imported - reading[0],
        "tables_s": end - counted,
        "total_s": end - start,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "responses": int(cells),
        "runs": len(tables.runs),
    }
    print(json.dumps(figures))


def beside_inspect(python: str, folder: Path, table: pa.Table) -> None:
    """Rows a second that Inspect reads back from its logs, and truing from one file of as many rows."""
    n_logs, n_samples = 20, 240
    has = python != sys.executable or importlib.util.find_spec("inspect_ai")
    if not has:
        say(
            "inspect_rows_per_s",
            None,
            todo="python -m venv V && V/bin/pip install inspect_ai pandas pyarrow; --inspect-python V/bin/python",
        )
        return
    logs = folder / "logs"
    command = [python, "-c", INSPECT, str(logs), str(n_logs), str(n_samples)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    say("inspect_rows_per_s", theirs["rows"] / theirs["seconds"], rows=theirs["rows"], logs=n_logs)
    from truing.results.from_files import JudgedOptions, read_judged

    small = folder / "small.parquet"
    pq.write_table(table.slice(0, n_logs * n_samples), small)
    start = time.perf_counter()
    read_judged([small], JudgedOptions())
    seconds = time.perf_counter() - start
    say("truing_rows_per_s", n_logs * n_samples / seconds, rows=n_logs * n_samples, logs=1)


def say(figure: str, value: float | None, **more: Any) -> None:
    """Print one figure."""
    line = {
        "bench": "analyze",
        "date": datetime.now(UTC).date().isoformat(),
        "figure": figure,
        "value": None if value is None else round(value, 3),
        **more,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
