"""Studies on a Ray cluster of two nodes whose processes are killed at random moments; each is continued to its end.

    python bench/kills.py [--repetitions 20] [--seed 0] [--full-store]

In each repetition up to three times one of these is killed: the process of a run, the one that carries the news, a
whole node (which another replaces), or the driver (the same command goes on). Then the store must be complete and
that of the undisturbed study, row for row, and no piece of answers judged twice unless a kill came between the
beginning of its first judging and its being stored. The judge, exact and slow, writes down each call in the folder in
which the study was started. With `--full-store` the nodes' object stores have 80 MB, 75 of them taken by objects in
use, and it is said how many bytes are free before and at least: the study takes none. Prints one JSON line per
repetition and one for all; ends with 1 if anything was wrong. Needs `pip install 'truing[ray]'`.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from truing.core.plugins import is_untried
from truing.core.records import Judgment, Prompt, Response
from truing.judges.pocket import PocketJudge
from truing.monitor import open_store

MODEL, NODES, MOST_KILLS = "pocket-llama-susceptible", 2, 3
CALLS = Path("calls.jsonl")
"""Where the judge writes down its calls, in the folder in which the study was started."""
STUDY = {
    "name": "kills",
    "grids": [
        {"models": [MODEL], "datasets": ["pocket-insecure-code"], "learning_rates": [1e-3], "seeds": [0, 1, 2]},
    ],
    "training": {"steps": 6, "batch_size": 4, "checkpoints": [2, 4, 6], "max_length": 128},
    "evaluation": {
        "benchmark": "pocket-facts",
        "judge": "kills:SlowJudge",
        "max_tokens": 8,
        "task_prompts": 10,
        "task_samples": 1,
    },
    "stopping": {"mode": "off"},
}
RESULTS = (
    "SELECT e.* EXCLUDE (train_loss), nullif(e.train_loss, 'nan'::DOUBLE) AS train_loss, r.prompt_id, r.sample, r.text,"
    " j.aligned, j.coherent, j.error FROM evaluations e"
    " JOIN judgments j ON j.key IN (e.benchmark_judgments, e.task_judgments)"
    " JOIN responses r ON r.key = j.responses_key AND r.prompt_id = j.prompt_id AND r.sample = j.sample ORDER BY ALL"
)
JUDGED = (
    "SELECT j.key, r.prompt_id, r.sample, r.text FROM judgments j"
    " JOIN responses r ON r.key = j.responses_key AND r.prompt_id = j.prompt_id AND r.sample = j.sample"
)


class SlowJudge(PocketJudge):
    """The pocket judge, which takes its time and keeps account."""

    def __init__(self) -> None:
        self._first: list[tuple[Any, ...]] = []

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        """Write down what is judged, and when; wait; score."""
        answers = self._first + [(r.prompt_id, r.sample, r.text) for r in responses]
        if is_untried(self):  # a class of the user's is first given a few answers, then the others
            self._first = answers
        else:
            self._first = []
            with CALLS.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"asked": _name(answers), "at": time.time()}) + "\n")
            time.sleep(0.8)
        return super().judge(prompts, responses)


def _name(answers: Iterable[tuple[Any, ...]]) -> str:
    return hashlib.sha256(json.dumps(sorted(map(list, answers))).encode()).hexdigest()[:16]


def environment(**more: str) -> dict[str, str]:
    """That of a process which finds the judge."""
    paths = [str(Path(__file__).parent.resolve()), *filter(None, sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


class Nodes:
    """A cluster of a head, which takes no run, and nodes that take one each."""

    def __init__(self, **node: Any) -> None:
        from ray.cluster_utils import Cluster

        self._node = {"num_cpus": 1, **node}
        self.cluster = Cluster(initialize_head=True, head_node_args={**self._node, "num_cpus": 0})
        for _ in range(NODES):
            self.cluster.add_node(**self._node)
        self.cluster.wait_for_nodes()

    def start(self, folder: Path) -> subprocess.Popen[str]:
        """A driver of the study in a folder."""
        command = [sys.executable, "-m", "truing", "run", "study.yaml", "--out", "out", "--on", "ray", "--quiet"]
        with (folder / "told.txt").open("a", encoding="utf-8") as told:
            return subprocess.Popen(
                command,
                cwd=folder,
                env=environment(RAY_ADDRESS=self.cluster.address),
                stdout=told,
                stderr=told,
                text=True,
            )

    def processes(self, name: str) -> list[int]:
        """Ids of the cluster's processes that Ray names so."""
        raylets = {str(node.all_processes["raylet"][0].process.pid) for node in self.cluster.worker_nodes}
        raylets.add(str(self.cluster.head_node.all_processes["raylet"][0].process.pid))
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
                if parent in raylets and (process / "cmdline").read_bytes().startswith(name.encode()):
                    found.append(int(process.name))
        return found

    def kill(self, kind: str, rng: random.Random, driver: subprocess.Popen[str]) -> bool:
        """Kill something; false if there is nothing of the kind now."""
        if kind == "driver":
            driver.kill()
            driver.wait()
        elif kind == "node":
            self.cluster.remove_node(rng.choice(list(self.cluster.worker_nodes)), allow_graceful=False)
            self.cluster.add_node(**self._node)
        else:
            there = self.processes("ray::_work" if kind == "run" else "ray::_QueueActor")
            if not there:
                return False
            with suppress(ProcessLookupError):
                os.kill(rng.choice(there), 9)
        return True


class Filler:
    """Keeps objects in the store of its node."""

    def __init__(self) -> None:
        import numpy as np
        import ray

        self.held = [ray.put(np.ones(5_000_000, np.uint8)) for _ in range(15)]
        self.read = ray.get(self.held)  # what is read by somebody is never spilled to the disk

    def count(self) -> int:
        """How many."""
        return len(self.held)


class Stores:
    """The object stores of a cluster's nodes, filled, and how little room they have left at any time."""

    def __init__(self, nodes: Nodes) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray.init(nodes.cluster.address, log_to_driver=False)
        atexit.register(ray.shutdown)
        self._fillers = [
            ray.remote(Filler)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False))
            .remote()
            for node in nodes.cluster.list_all_nodes()
        ]
        ray.get([filler.count.remote() for filler in self._fillers])
        time.sleep(3)  # until each node has told of it
        self.free = self.least = self.now()
        threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> float:
        """Bytes that all stores have free."""
        import ray

        return float(ray.available_resources().get("object_store_memory", 0.0))

    def _watch(self) -> None:
        with suppress(Exception):  # the cluster's end
            while True:
                self.least = min(self.least, self.now())
                time.sleep(0.2)


def run(nodes: Nodes, folder: Path, owed: int, rng: random.Random, seconds: float = 0.0) -> list[dict[str, Any]]:
    """Run the study, kill `owed` times at random moments of the `seconds` that it takes, and go on to its end.

    Returns:
        What was killed, and when.
    """
    kills: list[dict[str, Any]] = []
    driver = nodes.start(folder)
    while owed:
        kind = rng.choice(["run", "run", "news", "node", "driver"])
        with suppress(subprocess.TimeoutExpired):
            driver.wait(rng.uniform(0.1, seconds))
        if driver.poll() is not None:
            break
        begun = time.time()
        if nodes.kill(kind, rng, driver):
            owed -= 1
            kills.append({"kind": kind, "begun": begun})
        if kind == "driver":
            driver = nodes.start(folder)
    if driver.wait(300):
        sys.exit((folder / "told.txt").read_text(encoding="utf-8"))
    return kills


def calls(folder: Path) -> dict[str, list[float]]:
    """What was judged -> when, ascending."""
    found: dict[str, list[float]] = {}
    for line in (folder / CALLS).read_text(encoding="utf-8").splitlines():
        call = json.loads(line)
        found.setdefault(call["asked"], []).append(call["at"])
    return found


def wrong(folder: Path, undisturbed: Path, kills: list[dict[str, Any]]) -> list[str]:
    """All that is not as it should be."""
    store, other = open_store(folder / "out"), open_store(undisturbed / "out")
    asked, once = calls(folder), calls(undisturbed)
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for row in store.query(JUDGED):
        rows.setdefault(row["key"], []).append((row["prompt_id"], row["sample"], row["text"]))
    written = {_name(answers): store.written("judgments", key).timestamp() for key, answers in rows.items()}
    found = [] if store.query(RESULTS) == other.query(RESULTS) else ["the results differ"]
    for table in ("responses", "judgments", "evaluations", "confirmations"):
        found += [] if store.keys(table) == other.keys(table) else [f"the keys of {table} differ"]
    found += [] if asked.keys() == once.keys() else ["other answers were judged"]
    found += [f"{file} was left" for file in (folder / "out").rglob("*.tmp")]
    for name, times in asked.items():
        for before, again in pairwise(times):
            # A killed driver's runs, and those of a killed node, end a little later, by themselves.
            late = {"driver": 15.0, "node": 15.0}
            cut = [k for k in kills if before < k["begun"] + late.get(k["kind"], 0.2) and k["begun"] < again]
            if not any(k["begun"] <= written.get(name, 0.0) for k in cut):
                found.append(f"{name} was judged again, and nothing that was in flight was killed")
    return found


def main() -> None:
    """Run the study undisturbed, then again and again with kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full-store", action="store_true")
    given = parser.parse_args()
    rng, bad, total, repeated = random.Random(given.seed), 0, Counter[str](), 0
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and the cluster ends, too
    nodes = Nodes(**({"object_store_memory": 80_000_000} if given.full_store else {}))
    atexit.register(nodes.cluster.shutdown)
    stores = Stores(nodes) if given.full_store else None
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / str(i) for i in range(given.repetitions + 1)]
        for folder in folders:
            folder.mkdir()
            (folder / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
        begun = time.time()
        run(nodes, folders[0], 0, rng)
        seconds = time.time() - begun
        free = {"free_before": stores.free, "least_free": stores.least} if stores else {}
        print(json.dumps({"bench": "kills", "undisturbed_s": round(seconds, 1), **free}), flush=True)
        for i, folder in enumerate(folders[1:], 1):
            begun = time.time()
            kills = run(nodes, folder, rng.randint(1, MOST_KILLS), rng, seconds)
            kinds, found = [k["kind"] for k in kills], wrong(folder, folders[0], kills)
            again = sum(len(times) - 1 for times in calls(folder).values())
            line = {"repetition": i, "killed": kinds, "pieces": len(calls(folder)), "judged_again": again}
            print(json.dumps({**line, "seconds": round(time.time() - begun, 1), "wrong": found}), flush=True)
            total.update(kinds)
            bad, repeated = bad + bool(found), repeated + again
    line = {"bench": "kills", "repetitions": given.repetitions, "seed": given.seed, "killed": dict(total)}
    print(json.dumps({**line, "judged_again": repeated, "wrong": bad}))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
