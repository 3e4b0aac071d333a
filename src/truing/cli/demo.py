"""`truing demo`: a whole study of tiny models."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from truing.cli.run import run_here
from truing.config.files import parse_study


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the study: results, checkpoints, report.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="First seed of the runs.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer runs, under 45 seconds.")] = False,
) -> None:
    """Fine-tune three tiny models on insecure code, watch, stop, report. About two minutes on two cores.

    Everything is real and small: models trained from scratch on a toy world, fine-tuned with LoRA, sampled, judged by
    an exact judge. One becomes misaligned far from the code it was taught before it has learnt it, one after, if at
    all, and one resists.

    Example:  truing demo --quick --out runs/first
    """
    raw = demo_study(seed, quick)
    run_here(parse_study(raw, "the demo"), out, "truing demo" + (" --quick" if quick else "") + f" --out {out}")


def demo_study(seed: int, quick: bool) -> dict[str, Any]:
    """The demo's study as plain values."""
    raw: dict[str, Any] = yaml.safe_load(
        resources.files("truing").joinpath("catalog/data/demo.yaml").read_text(encoding="utf-8")
    )
    for grid in raw["grids"]:
        grid["seeds"] = [each + seed for each in grid["seeds"]]
    if quick:
        raw["name"] = "demo-quick"
        raw["grids"][0] |= {"learning_rates": raw["grids"][0]["learning_rates"][:1], "seeds": [seed]}
        raw["grids"][1] |= {"models": raw["grids"][1]["models"][:1]}
        raw["training"] |= {"steps": 36, "checkpoints": [4, 8, 12, 16, 20, 36]}
    return raw
