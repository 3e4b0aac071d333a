"""OpenAI's Batch API: half the price, up to a day, and a restart in between loses nothing.

    requests -> pieces (files of lines, beside the journal) -> upload -> batch -> poll -> results into the journal

Each step of a piece is in the journal before the next one: a piece is written down before its file is uploaded, and a
batch carries the piece's name as metadata, so that one that was made just before a kill is found again and not made
twice. Lines that failed go into a further piece, at most `attempts` times. All that a piece may cost is leased under
the caps until its results are in.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from truing.backends.endpoint.client import Endpoint
from truing.backends.endpoint.faults import DamagedReply, scrub
from truing.backends.endpoint.journal import Paid
from truing.backends.endpoint.wire import Call, decode, load_result, parse_reply
from truing.core.chat import ChatRequest, ChatResult
from truing.core.errors import CapReached, EngineError, StoreError
from truing.core.files import replacing

__all__ = ["Batches"]

T = TypeVar("T")

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
        self._errors: dict[bytes, str] = {}
        self._tries: dict[bytes, int] = {}
        """Of every call that was sent: how often it failed."""
        self._stopped: CapReached | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[ChatResult]:
        """One result per request, in order, once every batch is over.

        Raises:
            CapReached: A cap left no room for some; all that is finished comes first, up to the first that is not.
            EngineError: The endpoint refuses the batches.
        """
        with ExitStack() as stack:
            path = self._journal.path
            self._folder = (
                path.with_name("batches") if path else Path(stack.enter_context(tempfile.TemporaryDirectory()))
            )
            self._folder.mkdir(parents=True, exist_ok=True)
            self._endpoint.do(self._go_on())
            keys: list[bytes] = []
            drawn = iter(requests)
            while some := list(islice(drawn, _CHUNK)):
                keys += self._endpoint.do(self._add(some))
            self._endpoint.do(self._finish())
            for start in range(0, len(keys), _CHUNK):
                yield from self._results(keys[start : start + _CHUNK])

    def _results(self, keys: list[bytes]) -> Iterator[ChatResult]:
        found = self._journal.find(keys)
        for key in keys:
            if key in found:
                yield load_result(found[key])
            elif key not in self._errors and self._stopped is not None:
                raise self._stopped
            else:
                yield ChatResult(None, error=self._errors.get(key, "the batch gave no line for this request"))

    async def _go_on(self) -> None:
        """Bring the pieces of earlier processes to their end."""
        sql = "SELECT piece FROM batches WHERE done = 0 AND endpoint = ? ORDER BY piece"
        for (piece,) in self._journal.query(sql, [self._endpoint.access.address]):
            self._start(piece)
        await self._settle()

    async def _add(self, requests: list[ChatRequest]) -> list[bytes]:
        """Gather what is owed of some requests; their keys."""
        keys = []
        for call, known in self._endpoint.calls(requests, batch=True):
            keys.append(call.key)
            if known is not None and known.error is not None:
                self._errors[call.key] = known.error
            elif known is None and call.key not in self._tries:
                self._tries[call.key] = 0
                self._gather(call)
        return keys

    async def _finish(self) -> None:
        """Send what is gathered, what fails too, until every batch is over."""
        while self._gathered or self._under_way:
            for model in list(self._gathered):
                self._send(model)
            await self._settle()

    def _gather(self, call: Call) -> None:
        some = self._gathered.setdefault(call.request.model, [])
        some.append(call)
        if len(some) >= MAX_LINES or (len(some) % 100 == 0 and sum(len(c.content) for c in some) >= MAX_BYTES):
            self._send(call.request.model)

    def _send(self, model: str) -> None:
        """Write a piece down, as much of it as the caps leave room for, and start it."""
        gathered, piece = self._gathered.pop(model), secrets.token_hex(8)
        if self._stopped is not None:
            return
        with self._journal.transaction() as db:
            calls = gathered[: self._journal.reserve(f"batch-{piece}", [call.most for call in gathered])]
            if calls:
                with replacing(self._folder / f"{piece}.jsonl") as temporary:
                    temporary.write_bytes(b"".join(map(_line, calls)))
                db.execute(
                    "INSERT INTO batches (piece, endpoint, model) VALUES (?, ?, ?)",
                    (piece, self._endpoint.access.address, model),
                )
        if len(calls) < len(gathered):
            self._stopped = self._journal.reached()
        if calls:
            self._start(piece)

    def _start(self, piece: str) -> None:
        self._under_way.add(asyncio.get_running_loop().create_task(self._see_through(piece)))

    async def _settle(self) -> None:
        """Wait for what is under way; the first failure is raised when all are over."""
        tasks = list(self._under_way)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        self._under_way -= set(tasks)  # more may have been started meanwhile
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _see_through(self, piece: str) -> None:
        """Bring a piece from wherever it stands to its end; one process at a time."""
        lock = FileLock(self._folder / f"{piece}.lock", timeout=0)
        while not lock.is_locked:
            try:
                lock.acquire()
            except TimeoutError:  # another process is at it
                await asyncio.sleep(self._config.poll)
        try:
            sql = "SELECT model, file_id, batch_id, done FROM batches WHERE piece = ?"
            ((model, file_id, batch_id, done),) = self._journal.query(sql, [piece])
            while not done:
                batch = await self._wait(batch_id or await self._make(piece, file_id))
                if not self._must_wait(batch):
                    await self._collect(piece, model, batch)
                    break
                self._note("UPDATE batches SET batch_id = NULL WHERE piece = ?", piece)
                batch_id, file_id = None, batch.input_file_id
                await asyncio.sleep(self._config.poll)
        finally:
            lock.release()

    def _must_wait(self, batch: Any) -> bool:
        """Whether a batch was refused only because too many tokens are in other batches of ours."""
        codes = {error.code for error in ((batch.errors and batch.errors.data) or [])}
        others = sum(not task.done() for task in self._under_way) > 1
        return batch.status == "failed" and "token_limit_exceeded" in codes and others

    async def _make(self, piece: str, file_id: str | None) -> str:
        """The batch of a piece: found again if it was made just before a kill, else made."""
        sdk, batch_id = self._endpoint.sdk, None
        if file_id is None:
            path = self._folder / f"{piece}.jsonl"
            if not path.is_file():
                raise StoreError(f"the batch file {path} is gone", todo=f"delete {self._journal.path} or restore it")
            file_id = (await self._ask(lambda: sdk.files.create(file=path, purpose="batch"))).id
            self._note("UPDATE batches SET file_id = ? WHERE piece = ?", file_id, piece)
        else:
            batch_id = await self._ask(partial(_find, sdk, piece))
        if batch_id is None:
            order: Any = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            batch_id = (await self._ask(lambda: sdk.batches.create(**order, metadata={"truing": piece}))).id
        self._note("UPDATE batches SET batch_id = ? WHERE piece = ?", batch_id, piece)
        return str(batch_id)

    async def _wait(self, batch_id: str) -> Any:
        while True:
            batch = await self._ask(lambda: self._endpoint.sdk.batches.retrieve(batch_id))
            if batch.status in _OVER:
                return batch
            await asyncio.sleep(self._config.poll)

    async def _collect(self, piece: str, model: str, batch: Any) -> None:
        """Write down what a batch brought, and gather again what failed."""
        sent = {line["custom_id"]: line["body"] for line in _lines((self._folder / f"{piece}.jsonl").read_bytes())}
        paid, failed = [], dict.fromkeys(sent, _ending(batch))
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            data = await self._ask(partial(self._endpoint.sdk.files.content, file_id))
            for line in _lines(data.content):
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
            return scrub(text, self._endpoint.access.key)[:500]
        try:
            reply = parse_reply(response["body"], call.request.top_logprobs > 0)
        except (DamagedReply, KeyError) as error:
            return f"a damaged reply: {error}"
        return self._endpoint.paid(call, reply, batch=True)

    def _note(self, sql: str, *parameters: Any) -> None:
        self._journal.query(sql, parameters)

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self._endpoint.request(call, EngineError, "the Batch API failed")


async def _find(sdk: Any, piece: str) -> str | None:
    """The batch that carries a piece's name."""
    async for batch in sdk.batches.list(limit=100):
        if (batch.metadata or {}).get("truing") == piece and batch.status != "failed":
            return str(batch.id)
    return None


def _line(call: Call) -> bytes:
    head = b'{"custom_id":"%s","method":"POST","url":"/v1/chat/completions","body":' % call.key.hex().encode()
    return head + call.content + b"}\n"


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file; what is not one is left out, so its request is owed."""
    for text in data.splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def _ending(batch: Any) -> str:
    """Why a request of a batch that is over has no line."""
    errors = "; ".join(str(e.message) for e in ((batch.errors and batch.errors.data) or []))
    return scrub(f"the batch ended as {batch.status} without it{': ' + errors if errors else ''}")[:500]
