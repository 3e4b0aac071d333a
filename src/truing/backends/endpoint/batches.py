"""OpenAI's Batch API: half the price, up to a day, and a restart in between loses nothing.

    requests -> pieces (files of lines, beside the journal) -> upload -> batch -> poll -> results into the journal

Where a piece stands is in the journal: a piece is written down before its file is uploaded, each step before the next
one, and a batch carries the piece's name as metadata, so that one that was made just before a kill is found again and
not made twice. Lines that failed go into a further piece, at most `attempts` times. All that a piece may cost is leased
under the caps until its results are in.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from truing.backends.endpoint.client import MARK, Endpoint, find_marked
from truing.backends.endpoint.faults import DamagedReply, ErrorReply, scrub
from truing.backends.endpoint.journal import Paid
from truing.backends.endpoint.wire import Call, decode, load_result, parse_reply
from truing.core.chat import ChatRequest, ChatResult
from truing.core.errors import CapReached, EngineError, StoreError
from truing.core.files import load_json, replacing

MAX_LINES = 20_000
MAX_BYTES = 50_000_000
"""A piece's bounds, for memory; the interface allows 50,000 lines and 200 MB."""
_CHUNK = 500
_OVER = ("completed", "failed", "expired", "cancelled")


class Batches:
    """The batches of one sequence of requests, and those that earlier processes left."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._config, self._journal = endpoint, endpoint.config, endpoint.journal
        self._gathered: dict[str, list[Call]] = {}
        """Calls that are owed, by model, until there are enough for a piece."""
        self._pieces: dict[str, FileLock] = {}
        """Those under way, each with what keeps other processes from it."""
        self._errors: dict[bytes, str] = {}
        self._tries: dict[bytes, int] = {}
        """Of every call that was sent: how often it failed."""
        self._stopped: CapReached | None = None

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """One result per request, in order, once every batch is over.

        Raises:
            CapReached: A cap left no room for some; all that is finished comes first, up to the first that is not.
            EngineError: The endpoint refuses the batches.
        """
        with ExitStack() as stack:
            path = self._journal.path or Path(stack.enter_context(tempfile.TemporaryDirectory()), "journal")
            self._folder = path.with_name("batches")
            self._folder.mkdir(parents=True, exist_ok=True)
            stack.callback(self._let_go)
            sql = "SELECT piece FROM batches WHERE done = 0 AND endpoint = ? ORDER BY piece"
            for (piece,) in self._journal.query(sql, [self._endpoint.access.address]):
                self._take_up(piece)
            self._finish()
            keys: list[bytes] = []
            drawn = iter(requests)
            while some := list(islice(drawn, _CHUNK)):
                keys += self._add(some)
            self._finish()
            for start in range(0, len(keys), _CHUNK):
                yield from self._results(keys[start : start + _CHUNK])

    def _let_go(self) -> None:
        for lock in self._pieces.values():
            lock.release()

    def _results(self, keys: list[bytes]) -> Iterator[ChatResult]:
        found = self._journal.find(keys)
        for key in keys:
            if key in found:
                yield load_result(found[key])
            elif key not in self._errors and self._stopped is not None:
                raise self._stopped
            else:
                yield ChatResult(None, error=self._errors.get(key, "the batch gave no line for this request"))

    def _add(self, requests: list[ChatRequest]) -> list[bytes]:
        """Gather what is owed of some requests; their keys."""
        known = self._endpoint.calls(requests, batch=True)
        for call, result in known:
            if result is not None and result.error is not None:
                self._errors[call.key] = result.error
            elif result is None and call.key not in self._tries:
                self._tries[call.key] = 0
                self._gather(call)
        return [call.key for call, _ in known]

    def _gather(self, call: Call) -> None:
        some = self._gathered.setdefault(call.request.model, [])
        some.append(call)
        if len(some) >= MAX_LINES or (len(some) % 100 == 0 and sum(len(c.content) for c in some) >= MAX_BYTES):
            self._send(call.request.model)

    def _send(self, model: str) -> None:
        """Write a piece down, as much of it as the caps leave room for."""
        gathered, piece = self._gathered.pop(model), secrets.token_hex(8)
        if self._stopped is not None:
            return
        with self._journal.transaction() as db:
            calls = gathered[: self._journal.take([call.most for call in gathered], f"batch-{piece}")]
            if calls:
                with replacing(self._folder / f"{piece}.jsonl") as temporary:
                    temporary.write_bytes(b"".join(map(_line, calls)))
                row = (piece, self._endpoint.access.address, model)
                db.execute("INSERT INTO batches (piece, endpoint, model) VALUES (?, ?, ?)", row)
        if len(calls) < len(gathered):
            self._stopped = self._journal.reached()
        if calls:
            self._take_up(piece)

    def _take_up(self, piece: str) -> None:
        self._pieces[piece] = FileLock(self._folder / f"{piece}.lock", timeout=0, thread_local=False)

    def _finish(self) -> None:
        """Send what is gathered, and what fails again, until every batch is over.

        Raises:
            EngineError: The endpoint refused one; the others were brought to their end first.
        """
        refused: EngineError | None = None
        while self._gathered or self._pieces:
            for model in list(self._gathered):
                self._send(model)
            for piece in list(self._pieces):
                try:
                    self._advance(piece)
                except EngineError as error:
                    refused = refused or error
                    self._pieces.pop(piece).release()
            if self._pieces:
                time.sleep(self._config.poll)
        if refused is not None:
            raise refused

    def _advance(self, piece: str) -> None:
        """Bring a piece as far as it can be without waiting; one process at a time."""
        try:
            if not self._pieces[piece].is_locked:
                self._pieces[piece].acquire()
        except Timeout:  # another process is at it
            return
        sql = "SELECT file_id, batch_id, done FROM batches WHERE piece = ?"
        ((file_id, batch_id, done),) = self._journal.query(sql, [piece])
        if not done:
            batch_id = batch_id or self._make(piece, file_id)
            batch = self._ask(lambda sdk: sdk.batches.retrieve(batch_id))
            if batch.status not in _OVER:
                return
            codes = {error.code for error in ((batch.errors and batch.errors.data) or [])}
            if batch.status == "failed" and "token_limit_exceeded" in codes and len(self._pieces) > 1:
                self._note("UPDATE batches SET batch_id = NULL WHERE piece = ?", piece)  # others of ours must end first
                return
            self._collect(piece, batch)
        self._pieces.pop(piece).release()

    def _make(self, piece: str, file_id: str | None) -> str:
        """The batch of a piece: found again if it was made just before a kill, else made."""
        path = self._folder / f"{piece}.jsonl"
        if file_id is None:
            if not path.is_file():
                raise StoreError(f"the batch file {path} is gone", todo=f"delete {self._journal.path} or restore it")
            file_id = str(self._ask(lambda sdk: sdk.files.create(file=path, purpose="batch")).id)
            self._note("UPDATE batches SET file_id = ? WHERE piece = ?", file_id, piece)
        order = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}

        async def find_or_make(sdk: Any) -> Any:
            found = await find_marked(sdk.batches.list(limit=100), piece, ("failed",))
            return found or await sdk.batches.create(**order, metadata={MARK: piece})

        batch = self._ask(find_or_make)
        self._note("UPDATE batches SET batch_id = ? WHERE piece = ?", batch.id, piece)
        return str(batch.id)

    def _collect(self, piece: str, batch: Any) -> None:
        """Write down what a batch brought, and gather again what failed."""
        sent = {line["custom_id"]: line["body"] for line in _lines((self._folder / f"{piece}.jsonl").read_bytes())}
        paid, failed = [], dict.fromkeys(sent, _ending(batch))
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in _lines(self._ask(lambda sdk, name=file_id: sdk.files.content(name)).content):
                name = str(line.get("custom_id"))
                if name not in failed:
                    continue  # nobody asked for it, or it is there already
                outcome = self._read(line, self._call(name, sent[name]))
                if isinstance(outcome, Paid):
                    paid.append(outcome)
                    del failed[name]
                else:
                    failed[name] = outcome
        self._end(piece, paid)
        if not paid and batch.status == "failed":
            raise EngineError(f"the endpoint refuses batch {batch.id}", _ending(batch), todo="fix what it names")
        for name, reason in failed.items():
            call = self._call(name, sent[name])
            self._tries[call.key] = tries = self._tries.get(call.key, 0) + 1
            if tries >= self._config.attempts:
                self._errors[call.key] = f"{reason} ({tries} attempts)"
            else:
                self._gather(call)

    def _end(self, piece: str, paid: list[Paid]) -> None:
        with self._journal.transaction() as db:
            self._journal.write(paid, "batch", (f"batch-{piece}", 0, 0.0), once=True)
            db.execute("UPDATE batches SET done = 1 WHERE piece = ?", (piece,))
        (self._folder / f"{piece}.jsonl").unlink(missing_ok=True)

    def _call(self, name: str, body: dict[str, Any]) -> Call:
        """The call of a line that was sent."""
        content = json.dumps(body, separators=(",", ":")).encode()
        request = decode(body, self._endpoint.max_tokens_field)
        return Call(bytes.fromhex(name), request, content, self._endpoint.most(request, batch=True))

    def _read(self, line: dict[str, Any], call: Call) -> Paid | str:
        """A finished call, or why it failed."""
        response = line.get("response") or {}
        if line.get("error") or response.get("status_code") != 200:
            text = f"the batch says: {line.get('error') or response.get('body')}"
            return scrub(text, *self._endpoint.access.secrets)[:500]
        try:
            reply = parse_reply(response["body"], call.request.top_logprobs > 0)
        except ErrorReply as error:
            return scrub(f"the batch says: {error.body}", *self._endpoint.access.secrets)[:500]
        except (DamagedReply, KeyError) as error:
            return f"a damaged reply: {error}"
        return self._endpoint.paid(call, reply, batch=True)

    def _note(self, sql: str, *parameters: Any) -> None:
        self._journal.query(sql, parameters)

    def _ask(self, call: Callable[..., Awaitable[Any]]) -> Any:
        return self._endpoint.ask(call, EngineError, "the Batch API failed")


def _line(call: Call) -> bytes:
    head = b'{"custom_id":"%s","method":"POST","url":"/v1/chat/completions","body":' % call.key.hex().encode()
    return head + call.content + b"}\n"


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file; what is not one is left out, so its request is owed."""
    for text in data.splitlines():
        try:
            line = load_json(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def _ending(batch: Any) -> str:
    """The reason why a request of a batch that is over has no line."""
    errors = "; ".join(str(e.message) for e in ((batch.errors and batch.errors.data) or []))
    return scrub(f"the batch ended as {batch.status} without it{': ' + errors if errors else ''}")[:500]
