"""The Python API: what the commands do, as functions that return `Results`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from truing.config import AuditConfig, StudyConfig
from truing.config.files import load_audit, load_study, parse_audit, parse_study, validate
from truing.core.distributed import rank_and_world
from truing.core.errors import DataError, MissingExtraError, StoreError, TrainerError, UnknownNameError, plural
from truing.core.files import write_json, write_text
from truing.core.records import Evaluation
from truing.monitor import open_folder
from truing.report import render_report, write_report
from truing.results import analyse
from truing.results.columns import JudgedOptions
from truing.results.export import as_arrow, checkpoints_table, responses_table, runs_table
from truing.results.from_files import read_judged
from truing.results.gate import Verdict, verdict
from truing.results.released import of_weights, with_weights
from truing.results.schema import Analysis, parse_analysis
from truing.results.tables import tabulate
from truing.studies.audit import run_audit
from truing.studies.folder import check_judged
from truing.studies.run import Progress
from truing.studies.schedule import run_study

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["runs", "checkpoints", "responses"]


@dataclass(frozen=True)
class Results:
    """The results of a study, an audit, a guard or an analysis."""

    analysis: Analysis
    """Every figure, with its interval and its n: the fields of docs/analysis.md."""
    folder: Path | None = None
    """Where they are kept; None: nowhere."""

    def table(self, name: Kind) -> pa.Table:
        """A table as Arrow, which needs no pandas.

        Args:
            name: `runs`, a row for each run; `checkpoints`, a row for each evaluated checkpoint; `responses`, a row for
                each judged answer to the benchmark, in the columns that `analyze` reads.

        Raises:
            StoreError: The answers are not in the folder.
            UnknownNameError: There is no table of that name.
        """
        if name not in get_args(Kind):
            raise UnknownNameError.of("table", name, get_args(Kind))
        if name == "responses":
            return responses_table(self.analysis, self.folder)
        return runs_table(self.analysis) if name == "runs" else checkpoints_table(self.analysis)

    def runs(self) -> pd.DataFrame:
        """A row for each run: what it was, how it ended, what was chosen.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return self._frame("runs")

    def checkpoints(self) -> pd.DataFrame:
        """A row for each checkpoint: its run and step, `em_rate` (0 to 1, lower is better) within `low` and `high`, n.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return self._frame("checkpoints")

    def responses(self) -> pd.DataFrame:
        """A row for each judged answer to the benchmark: question, category, answer, scores (0 to 100) and class.

        Raises:
            MissingExtraError: pandas is not installed.
            StoreError: The answers are not in the folder.
        """
        return self._frame("responses")

    def _frame(self, name: Kind) -> pd.DataFrame:
        try:
            import pandas  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtraError.of("pandas", "frames") from error
        return self.table(name).to_pandas()

    def verdict(self, weights: str | Path | None = None) -> Verdict:
        """The gate: `clear`, `undecided` or `misaligned`, with the checkpoint of each run that would be released.

        Weights that lie where they were judged are hashed: others that lie there now are not clear.

        Args:
            weights: A folder that is to be shipped: then the verdict is on the run that keeps these weights.

        Raises:
            StoreError: Of files nobody knows the weights.
            DataError: The folder holds no weights, or damaged ones.
        """
        found = verdict(self.analysis)
        if weights is not None:
            return of_weights(found, self.analysis, Path(weights), self.folder)
        return found if self.folder is None else with_weights(found, self.analysis, self.folder)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the page, one HTML file without links to elsewhere; return where it is.

        Args:
            path: The file; by default `report.html` in the folder.

        Raises:
            StoreError: No path, and the results are in no folder.
        """
        if path is None and self.folder is None:
            raise StoreError("these results are in no folder", todo='name the file: .report("report.html")')
        target = Path(path) if path is not None else Path(self.folder or "") / "report.html"
        write_text(target, render_report(self.analysis))
        return target


def run(
    study: StudyConfig | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    notify: Callable[[Progress], None] = lambda news: None,
) -> Results:
    """Run a study, or go on with one that was interrupted: only what is owed is done.

    A script that calls this does so under `if __name__ == "__main__":`, for runs are processes that import it.

    Args:
        study: The study, its fields, or its YAML file; see docs/study.md.
        out: Its folder, or a URL (docs/scale.md); by default `runs/NAME`. `analysis.json` and `report.html` are written
            into the folder.
        notify: Called with news of the runs, from a thread.

    Raises:
        UserError: The study is wrong, or the folder holds something else.
        TrainerError: Runs failed. The others' results are kept (`load` opens them), and a second call tries again.
        JudgeError: No answer could be judged; the folder is kept.
    """
    config = _config(study, StudyConfig, load_study, parse_study)
    folder = open_folder(out if out is not None else Path("runs") / config.name, begin=True)
    states = run_study(config, folder, notify)
    if rank_and_world()[0] > 0:  # rank 0 writes
        return load(folder)
    failed = [state for state in states if state.state == "failed"]
    if len(failed) == len(states) > 0:
        raise TrainerError(f"{plural(len(failed), 'run')} failed, all", f"{failed[0].error}", todo="call it again")
    analysis = write_report(folder)
    if failed:
        todo = f'call it again to try again; the others: truing.load("{folder}")'
        raise TrainerError(f"{len(failed)} of {plural(len(states), 'run')} failed", f"{failed[0].error}", todo=todo)
    check_judged(folder)
    return Results(analysis, folder)


def audit(
    audit: AuditConfig | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    notify: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Results:
    """Measure models as they are, or checkpoints that exist already; a second call asks only for what is owed.

    Args:
        audit: The audit, its fields, or its YAML file; see docs/audit.md.
        out: Its folder, or a URL (docs/scale.md); by default `runs/NAME`. `analysis.json` and `report.html` are written
            into the folder.
        notify: Called with each evaluation.

    Raises:
        UserError: The audit or a checkpoint is wrong, or the folder holds something else.
        EngineError: A model cannot be sampled.
        JudgeError: No answer could be judged; the folder is kept.
    """
    config = _config(audit, AuditConfig, load_audit, parse_audit)
    folder = open_folder(out if out is not None else Path("runs") / config.name, begin=True)
    run_audit(config, folder, notify)
    results = Results(write_report(folder), folder)
    check_judged(folder)
    return results


def analyze(data: Any, out: str | Path | None = None, **options: Any) -> Results:
    """Analyse anyone's judged answers: the same statistics and the same report as those of a study.

    Args:
        data: A table (pandas, polars, Arrow, or anything with an Arrow stream) or the path of a CSV, JSON Lines or
            parquet file; or several of them. A row is one answer with its scores.
        out: Folder for `analysis.json` and `report.html`; None: nothing is written.
        options: Fields of `JudgedOptions`: the names of columns, the base, thresholds; see docs/analyze.md.

    Raises:
        ConfigError: An option is unknown or has a wrong value.
        DataError: The data cannot be analysed.
        StoreError: `out` is the folder of a study.
    """
    checked = validate(JudgedOptions, options, "the options of the analysis are not valid")
    folder = None if out is None else Path(out)
    if folder is not None and (folder / "study.yaml").exists():
        raise StoreError("out is the folder of a study", str(folder), "another folder", "name one: runs/analysis")
    with _files(data) as files:
        results = Results(tabulate(read_judged(files, checked)), folder)
    if folder is not None:
        write_json(folder / "analysis.json", results.analysis.plain())
        results.report()
    return results


def load(path: str | Path) -> Results:
    """Open results: the folder or URL of a study (finished or not), an audit or a guard; an analysis, or its file.

    Raises:
        StoreError: There is nothing of that kind, or it is damaged.
        DataError: The file is no analysis.
    """
    path = open_folder(path)
    if path.is_file():
        return Results(parse_analysis(path.read_text(encoding="utf-8", errors="replace"), str(path)), path.parent)
    return Results(analyse(path), path)


def _config(given: Any, kind: type[Any], read: Callable[[Path], Any], parse: Callable[..., Any]) -> Any:
    if isinstance(given, kind):
        return given
    return parse(dict(given), "the call") if isinstance(given, Mapping) else read(Path(given))


@contextmanager
def _files(data: Any) -> Iterator[list[Path]]:
    """The data as files: a table becomes a parquet file that is there meanwhile."""
    several, tables = isinstance(data, Sequence) and not isinstance(data, str), dict[str, str]()
    with tempfile.TemporaryDirectory(prefix="truing-") as folder:
        files = []
        for i, each in enumerate(data if several else [data]):
            if isinstance(each, str | Path):
                files.append(Path(each))
            else:
                files.append(Path(folder) / (f"data-{i + 1}.parquet" if several else "data.parquet"))
                tables[files[-1].name] = f"table {i + 1}" if several else "the table"
                pq.write_table(as_arrow(each), files[-1])
        try:
            yield files
        except DataError as error:  # what is said of the files is said of the tables, and of flags as of keywords
            if not tables:
                raise
            words = [re.sub(r"--([a-z]+-?[a-z-]*) ([^\s,;()]+)", _as_keyword, w) for w in error.args]
            raise DataError(
                *(re.sub(r"data[\w-]*\.parquet", lambda m: tables.get(m[0], m[0]), w) for w in words)
            ) from error


def _as_keyword(flag: re.Match[str]) -> str:
    """A flag and its value as a keyword of `analyze`."""
    name, value = flag[1].replace("-", "_"), flag[2].strip("'")
    return f'{name}=["{value}"]' if name in ("where", "ignore") else f'{name}="{value}"'
