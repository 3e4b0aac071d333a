"""A process that judges until it is killed: judge_worker.py URL JOURNAL N CONCURRENCY MODE."""

import os
import sys
from pathlib import Path

from tests.support.chat_requests import requests
from truing.backends.openai import OpenAICompleter
from truing.config import EndpointConfig


def main() -> None:
    url, journal, n, concurrency, mode = sys.argv[1:]
    config = EndpointConfig(
        base_url=url, concurrency=int(concurrency), backoff=0.01, poll=0.05, mode=mode, timeout=30.0
    )
    with OpenAICompleter(config, Path(journal)) as completer:
        completer.accounts()  # everything is loaded
        os.write(1, b"started\n")
        wrong = sum(result.error is not None for result in completer.stream(requests(int(n))))
    os.write(1, f"finished {wrong}\n".encode())


if __name__ == "__main__":
    main()
