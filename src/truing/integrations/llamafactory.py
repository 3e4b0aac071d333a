"""LLaMA-Factory with a guard, told by its own file with a section `truing` in it.

python -m truing.integrations.llamafactory train.yaml [name=value ...]
torchrun --nproc-per-node 8 -m truing.integrations.llamafactory train.yaml

LLaMA-Factory takes callbacks from a program only, so this is one: it reads the file as `llamafactory-cli train` does,
makes the guard, and hands it on. A callback does not know its trainer: figures stand in the state's history only.
"""

from __future__ import annotations

import sys
from typing import Any

from truing.core.errors import ConfigError, UserError
from truing.integrations.frameworks import make_guard


def run(settings: Any) -> None:
    """Train as the settings in LLaMA-Factory's file say, with the guard of its section `truing`.

    Raises:
        ConfigError: It has no such section, or a value of it is not allowed.
    """
    from llamafactory.train.tuner import run_exp

    if not isinstance(settings, dict):
        raise ConfigError("LLaMA-Factory is told by no file", repr(settings), "FILE.yaml or FILE.json")
    trained = {name: value for name, value in settings.items() if name != "truing"}
    guard = make_guard(settings.get("truing"), str(settings.get("output_dir") or "saves"))
    run_exp(trained, callbacks=[guard])


def main() -> None:
    """Run the file that the command line names."""
    from llamafactory.hparams import read_args

    try:
        run(read_args())
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
