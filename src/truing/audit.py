"""An audit: models as they are, without training, measured and reported.

    OUT/audit.yaml     the whole audit, written first; a folder holds one
    OUT/store/         responses, judgments, evaluations
    OUT/analysis.json, OUT/report.html

Each model is a run of one checkpoint, step 1; the base, if one is named, is step 0 of every run. Running an audit again
asks only for what is owed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from truing.analysis.counted import CountedRun, Source
from truing.analysis.reader import StoreReader
from truing.analysis.tables import tabulate
from truing.catalog import resolve_model
from truing.checkpoints import model_hash, parameters_of
from truing.config import AuditConfig, JudgeConfig
from truing.config_files import load_audit
from truing.endpoint.address import endpoint_model, endpoint_weights
from truing.engines import Engine, load_completer, load_engine
from truing.errors import StoreError
from truing.files import write_json, write_text
from truing.judges import Judge, load_judge
from truing.lookup import find_benchmark
from truing.monitor import Monitor, Probe
from truing.records import Benchmark, Checkpoint, Evaluation
from truing.store import Store

__all__ = ["run_audit"]


def run_audit(
    config: AuditConfig, out: Path, notify: Callable[[Evaluation], None] = lambda evaluation: None
) -> dict[str, Any]:
    """Evaluate the models and write `analysis.json`.

    Args:
        config: Which models, and how they are asked and judged.
        out: The audit's folder.
        notify: Called with each evaluation.

    Returns:
        The analysis.

    Raises:
        StoreError: The folder holds something else.
        EngineError: A model cannot be sampled.
        UserError: A name or a setting must be mended.
    """
    _open(config, out)
    auditor = _Auditor(config, out, find_benchmark(config.evaluation.benchmark))
    base = None
    for run_id, model in auditor.names.items():
        if config.base is not None:
            base = auditor.evaluate(Checkpoint(run_id, config.base, 0, auditor.weights(config.base)))
            notify(base)
        notify(auditor.evaluate(Checkpoint(run_id, model, 1, auditor.weights(model)), base))
    analysis = auditor.analyse()
    write_json(out / "analysis.json", analysis)
    return analysis


def _open(config: AuditConfig, out: Path) -> None:
    existing = out / "audit.yaml"
    if existing.is_file():
        if load_audit(existing).hash() != config.hash():
            raise StoreError(f"{out} holds another audit", todo="choose another folder with --out, or remove this one")
    elif out.is_dir() and any(out.iterdir()):
        raise StoreError(f"{out} is not empty and holds no audit", todo="choose another folder with --out")
    write_text(existing, config.to_yaml())


@dataclass(frozen=True)
class _Auditor:
    config: AuditConfig
    out: Path
    benchmark: Benchmark

    @cached_property
    def names(self) -> dict[str, str]:
        """Run id -> model; a short name where it tells the models apart."""
        short = [PurePath(model).name for model in self.config.models]
        return {s if short.count(s) == 1 else m: m for s, m in zip(short, self.config.models, strict=True)}

    @cached_property
    def store(self) -> Store:
        return Store(self.out / "store")

    def evaluate(self, checkpoint: Checkpoint, base: Evaluation | None = None) -> Evaluation:
        """Measure one model, on the other benchmarks too."""
        evaluation = self.config.evaluation
        probe = Probe(self.benchmark.prompts, self._judge(evaluation.judge), evaluation.samples)
        settings = (evaluation, self.config.stopping)
        monitor = Monitor(self.store, self._engine(checkpoint.model), probe, None, "misaligned", settings)
        monitor.base = None if base is None else base.em_rate
        found = monitor.evaluate(checkpoint)
        for side in evaluation.also:
            judge = self._judge(side.judge or evaluation.judge)
            other = Probe(find_benchmark(side.benchmark).prompts, judge, side.samples)
            monitor.ask_also(checkpoint, side.label, other)
        return found

    def weights(self, model: str) -> str:
        """What names a model's weights: their hash, or an endpoint's address and the model's name there."""
        if self._remote:
            return endpoint_weights(self.config.endpoint, endpoint_model(model))
        return model_hash(resolve_model(model))

    def analyse(self) -> dict[str, Any]:
        """The tables of docs/analysis.md."""
        config = self.config
        reader = StoreReader(self.store, self.benchmark, config.evaluation, config.stopping)
        rows = reader.evaluations()
        runs = [
            CountedRun(
                id=run_id,
                model=model,
                dataset="no fine-tuning data",
                checkpoints=[reader.checkpoint(row, None) for row in rows[run_id]],
                parameters=parameters_of(model),
                also=reader.also(run_id),
            )
            for run_id, model in self.names.items()
        ]
        source = Source(
            study=reader.study_table(config.name, config.hash(), config.model_dump(mode="json")),
            categories=[p.category for p in self.benchmark.prompts],
            tolerance=config.stopping.tolerance,
            confidence=config.stopping.confidence,
            calibration=reader.calibration(self.out / "calibration.json"),
            runs=runs,
        )
        analysis = tabulate(source)
        analysis["samples"] = [s for run_id in self.names for s in reader.samples(run_id, rows[run_id], None)]
        return analysis

    @property
    def _remote(self) -> bool:
        return self.config.evaluation.engine == "openai"

    def _engine(self, model: str) -> Engine:
        return load_engine(self.config.evaluation.engine, model, self.config, self.out)

    def _judge(self, judge: str | JudgeConfig) -> Judge:
        remote = isinstance(judge, JudgeConfig) and judge.completer == "openai"
        return load_judge(judge, load_completer(self.config.endpoint, self.out) if remote else None)
