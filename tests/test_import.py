"""Importing truing changes nothing and loads nothing heavy."""

import subprocess
import sys

CHECK = """
import logging, os, sys, threading
environment = dict(os.environ)
import truing, truing.config, truing.monitor.monitor, truing.studies.run, truing.results, truing.cli
import truing.integrations.inspect
heavy = {"torch", "transformers", "peft", "accelerate", "openai", "vllm", "tinker", "inspect_ai"} & set(sys.modules)
assert not heavy, heavy
assert dict(os.environ) == environment
assert threading.active_count() == 1
assert not logging.getLogger().handlers
assert not logging.getLogger("truing").handlers
"""


def test_import_loads_no_torch_and_changes_nothing() -> None:
    subprocess.run([sys.executable, "-c", CHECK], check=True)


def test_the_guard_is_loaded_when_it_is_asked_for() -> None:
    check = "import sys, truing; assert 'torch' not in sys.modules; truing.Guard; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
