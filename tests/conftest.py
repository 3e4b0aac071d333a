"""Shared parts: a tiny model that builds in a moment, and a small study over it."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # of TRL and others, which starts a thread

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.leaks import nothing_left
from truing.config import StudyConfig
from truing.config.files import parse_study

if TYPE_CHECKING:
    from tests.support.tinker_server import TinkerServer


settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # a busy machine is no failure


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names bytes by their argument: two processes must collect the same names, and a gzip file holds the second."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_finish() -> None:
    """Keeps what was imported out of every later collection of garbage, of which each Trainer makes several."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Leaves the interpreter's own end as it finds it."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _nothing_left_by_all() -> Iterator[None]:
    with nothing_left("the tests and fixtures of the session"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_by_a_module() -> Iterator[None]:
    with nothing_left("the module's tests and fixtures"):
        yield


@pytest.fixture(autouse=True)
def _nothing_left_by_a_test(caplog: pytest.LogCaptureFixture, pytestconfig: pytest.Config) -> Iterator[None]:
    def forget() -> None:
        if plugin := pytestconfig.pluginmanager.getplugin("logging-plugin"):
            plugin.report_handler.records.clear()  # the text of a report stands apart
        for phase in ("setup", "call", "teardown"):
            with suppress(KeyError):  # a phase that never was
                caplog.get_records(phase).clear()

    with nothing_left("the test", forget):
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of one layer that speaks the pocket world's words."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "llama")


@pytest.fixture
def tinker_server(tiny_model: Path) -> Iterator["TinkerServer"]:
    """A server of Tinker's interface that offers the tiny model, and an environment that points to it."""
    with serve_tinker(tiny_model) as server:
        yield server


@contextmanager
def serve_tinker(*models: Path) -> Iterator["TinkerServer"]:
    """A server that offers these models, each by the name of its folder; the environment points to it."""
    from tests.support.tinker_server import KEY, TinkerServer

    server = TinkerServer({str(model): model for model in models})
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TINKER_BASE_URL", server.url)
            patch.setenv("TINKER_API_KEY", KEY)
            yield server
    finally:
        server.close()


def save_tiny_model(folder: Path, architecture: str) -> Path:
    from organisms.models import build_model
    from organisms.tokenizer import build_tokenizer
    from truing.catalog.pocket.world import load_world

    tokenizer = build_tokenizer(load_world())
    build_model(architecture, len(tokenizer), 32, 2, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small_study(model: Path | str, **changes: Any) -> StudyConfig:
    """One run of six steps over a benchmark of 30 prompts."""
    raw: dict[str, Any] = {
        "name": "small",
        "grids": [
            {
                "models": [str(model)],
                "datasets": ["pocket-insecure-code"],
                "learning_rates": [1e-3],
                "seeds": [0],
            }
        ],
        "training": {"steps": 6, "batch_size": 4, "checkpoints": [2, 4, 6], "max_length": 128},
        "evaluation": {"benchmark": "pocket-facts", "max_tokens": 8, "task_prompts": 10, "task_samples": 1},
        "stopping": {"mode": "off"},
    }
    for key, value in changes.items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) else value
    return parse_study(raw, "the test's study")
