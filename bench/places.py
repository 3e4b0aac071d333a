"""One study in one process, in two, and on a Ray cluster of two CPUs: seconds, processor seconds, and equal stores.

    python bench/places.py [--runs 4] [--steps 6] [--repeats 1]

The study fine-tunes a pocket organism with as many seeds as there are runs, evaluates two checkpoints of each, and
stops none; each run has one thread. Every place begins with an empty folder, in turn. Processor seconds are those of
all processes of a turn, looked at four times a second. Ray is started anew for each turn, and that counts. Prints one
JSON line per turn, with the machine's load before it; needs `pip install 'truing[ray]'` for the third place.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import yaml

from truing.config.files import parse_study
from truing.monitor import open_store

PLACES = ("one process", "two processes", "Ray, two CPUs")
COMPARED = "SELECT key, prompt_id, sample, text FROM responses ORDER BY ALL"


def look(turn: str, seconds: dict[str, float]) -> None:
    """Note the processor seconds of each process whose environment names the turn."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"PLACES_TURN={turn}".encode() in (process / "environ").read_bytes().split(b"\0"):
                fields = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                seconds[process.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(command: list[str], turn: str) -> tuple[float, float]:
    """Seconds and processor seconds of a command; ends with what it said if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local", "PLACES_TURN": turn}
    with tempfile.TemporaryFile("w+") as told:
        start, used = time.perf_counter(), dict[str, float]()
        process = subprocess.Popen(command, env=environment, stdout=told, stderr=told)
        while process.poll() is None:
            look(turn, used)
            time.sleep(0.25)
        wall = time.perf_counter() - start
        if process.returncode:
            told.seek(0)
            sys.exit(told.read())
    return wall, sum(used.values())


def main() -> None:
    """Run the study in each place, in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket-llama-susceptible")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    seeds = list(range(arguments.runs))
    study = {
        "name": "places",
        "grids": [
            {
                "models": [arguments.model],
                "datasets": ["pocket-insecure-code"],
                "learning_rates": [1e-3],
                "seeds": seeds,
            }
        ],
        "training": {"steps": arguments.steps, "checkpoints": [arguments.steps // 2, arguments.steps]},
        "stopping": {"mode": "off"},
        "evaluation": {"judge": "pocket", "max_tokens": 40, "task_prompts": 40, "task_samples": 1, "confirm": False},
    }
    ids = [f"--run={run.id}" for run in parse_study(study, "the bench's study").runs()]
    flags = dict(zip(PLACES, (ids, ["--set", "workers=2"], ["--on", "ray", "--resources", "CPU=1"]), strict=True))
    stores = set()
    for turn in range(arguments.repeats):
        for name in PLACES:
            if name.startswith("Ray") and importlib.util.find_spec("ray") is None:
                print(json.dumps({"place": name, "skipped": "Ray is not installed"}))
                continue
            with tempfile.TemporaryDirectory() as folder:
                file, out = Path(folder) / "study.yaml", Path(folder) / "out"
                file.write_text(yaml.safe_dump(study), encoding="utf-8")
                command = [sys.executable, "-m", "truing", "run", str(file), "--out", str(out), "--quiet"]
                load = os.getloadavg()[0]
                wall, cpu = measure([*command, *flags[name]], f"{turn} {name}")
                stores.add(json.dumps(open_store(out).query(COMPARED)))
            line = {"bench": "places", "date": datetime.now(UTC).date().isoformat(), "place": name, "turn": turn}
            figures = {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "load": round(load, 1)}
            print(json.dumps({**line, "runs": len(seeds), **figures}), flush=True)
    print(json.dumps({"bench": "places", "stores_equal": len(stores) == 1}))


if __name__ == "__main__":
    main()
