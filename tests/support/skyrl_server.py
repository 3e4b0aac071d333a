"""Starts SkyRL's open server of the Tinker API on the CPU; run by the Python of its own environment.

    python -P tests/support/skyrl_server.py MODEL FOLDER PORT

MODEL is the folder of the base model and its name at the server; FOLDER takes checkpoints and database. Two things are
mended at the start: Python 3.11's `typing.TypedDict`, which pydantic refuses, and the engine's start by `uv run`.
"""

from __future__ import annotations

import runpy
import sys
import typing

import typing_extensions

typing.TypedDict = typing_extensions.TypedDict  # type: ignore[assignment]


def serve(model: str, folder: str, port: int) -> None:
    import uvicorn
    from skyrl.tinker import api
    from skyrl.tinker.config import EngineConfig, config_to_argv

    api._build_uv_run_cmd_engine = lambda parent, config: [
        sys.executable,
        "-P",
        __file__,
        "engine",
        *config_to_argv(config),
    ]
    api.app.state.engine_config = EngineConfig(
        base_model=model,
        backend_config={"max_lora_adapters": 8, "max_lora_rank": 8},
        checkpoints_base=f"{folder}/checkpoints",
        database_url=f"sqlite:///{folder}/tinker.db",
    )
    uvicorn.run(api.app, host="127.0.0.1", port=port)


if __name__ == "__main__":
    if sys.argv[1] == "engine":
        sys.argv = ["skyrl.tinker.engine", *sys.argv[2:]]
        runpy.run_module("skyrl.tinker.engine", run_name="__main__", alter_sys=True)
    else:
        serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
