"""Checkpoints served by vLLM: many adapters on one base at a time.

    engine     answers of checkpoints, one by one or many in one stream
    server     one server, started here or found; which weights and adapters it holds, and proof of that
    process    the server as a child process          keeper   ends it when we are gone
    adapters   an adapter's files, and proof that vLLM would apply all of it
    admin      the server's own interface: models, adapters, a probe

Answers come through the `openai` engine's completer, which keeps finished calls. vLLM itself is never imported: it runs
in its own process, from whichever environment it is installed in.
"""

from truing.backends.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
