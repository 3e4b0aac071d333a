"""Results at a URL (`s3://`, `gs://`, ...), and a copy of them in the folder of each machine that works on them.

    FOLDER/store.url                         the URL; with this file a folder is shared
    FOLDER/store/TABLE/KEY/NUMBER-HASH.parquet   the copy
    URL/TABLE/KEY/NUMBER-HASH.parquet        one part of a piece of work
    URL/claims/RUN/OWNER                     somebody is at a run: put again every few seconds, dead when it is old

An object is put whole under the hash of its bytes: two that write at a time overwrite nothing, a repeated put changes
nothing, and what arrives broken is seen. Parts are ordered by their numbers. Reading is that of `FolderStore`: what is
at the URL of a table is brought when it is first asked about, of a piece when that is first read. Other files of a
folder (`RECORDS`) are pieces of the table `records`. Weights, locks and the journal of calls stay where they are.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from truing.core.errors import MissingExtraError, StoreError, plural
from truing.core.files import content_key, replacing, write_text
from truing.monitor.store import JOINED, SCHEMAS, WRITTEN, FolderStore, Rows, open_store, time_of

RECORDS = (
    "manifest.json",
    "study.yaml",
    "audit.yaml",
    "formats.json",
    "preflight*.json",
    "watch.json",
    "rejudged.txt",
    "calibration.json",
    "labels.jsonl",
    "runs/*/run.json",
)
"""Files of a folder that its analysis, or who goes on with it, needs beside the store."""
_BY_PEOPLE = ("calibration.json", "labels.jsonl")
"""Of which two versions are not decided between here."""
MARK = "store.url"
_PART = re.compile(r"(\d{6})-([0-9a-f]{16})\.parquet")
_FIRST = 0
"""Number of a file that was joined: it is read before all others."""
_ATTEMPTS, _AT_A_TIME = 5, 16
_BEAT, _PAUSE, _DEAD = 15.0, 2.0, 90.0
"""Seconds between two signs of life of who is at a run, between two looks at them, and to the death without one."""
_SAY_EVERY = 30.0
"""Seconds between two lines on what is waited for."""
_TODO = (
    "see that the URL, the network and the credentials are right, then run the same command again: it goes on; "
    f"to read the copy as it is, move its {MARK} away"
)


def open_folder(where: str | Path, begin: bool = False) -> Path:
    """The folder of results that a path or a URL names, with what other machines have written.

    Args:
        where: A folder; or a URL, whose copy is `runs/` and its last part, here.
        begin: Results may be begun there.

    Raises:
        StoreError: Nothing is at the URL, its copy would lie in another folder of results, or it cannot be reached.
    """
    if not (url := url_in(str(where))):
        open_store(Path(where)).exchange()
        return Path(where)
    folder = Path("runs") / PurePosixPath(urlsplit(url).path or urlsplit(url).netloc).name
    mark = folder / MARK
    if folder.exists() and not (mark.is_file() and mark.read_text(encoding="utf-8").strip() == url):
        todo = f"move it away; or write the URL into the file {MARK} of the folder that is to hold the copy"
        raise StoreError(f"{folder} holds something else than the copy of {url}", str(folder), "no such folder", todo)
    if not begin and not folder.exists() and not any(_list(url, "records")):
        raise StoreError(f"nothing has begun at {url}", "no records", "the URL of a study, an audit or a watch", _TODO)
    write_text(mark, f"{url}\n")
    open_store(folder).exchange()
    return folder


def url_in(where: str) -> str:
    """The URL that a text is, also where a path has joined its slashes; empty: it is none."""
    found = re.fullmatch(r"([a-z][a-z0-9+]+):/{1,3}([^/].*?)/*", where)
    return f"{found[1]}://{found[2]}" if found else ""


class SharedStore(FolderStore):
    """The objects under a URL, read from their copy.

    Args:
        root: The file with the URL.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root.with_name("store"))
        self.folder, self.url = root.parent, root.read_text(encoding="utf-8").strip()
        self._brought: set[str] = set()
        """Folders of the URL that have been brought: TABLE or TABLE/KEY."""

    def has(self, table: str, key: str) -> bool:
        """True if a part of it is here, or at the URL."""
        if not super().has(table, key):
            self._bring(f"{table}/{key}")
        return super().has(table, key)

    def read(self, table: str, key: str) -> Rows:
        """The rows of its parts, also of those that other machines had added when it was first read."""
        self._look_up(table, key)
        return super().read(table, key)

    def written(self, table: str, key: str) -> datetime:
        """The time at which it appeared at the URL; see `Store`."""
        self._look_up(table, key)
        return super().written(table, key)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Run SQL over all that was at the URL when its tables were first asked about."""
        for table in SCHEMAS:
            if table not in self._brought and re.search(rf"\b{table}\b", sql):
                self._bring(table)
                self._brought.add(table)
        return super().query(sql, parameters)

    def compact(self) -> int:
        """Join the parts of pieces that are here; what other machines add to one meanwhile stays beside it."""
        for table in JOINED:
            for key in [key for key, files in self._pieces(table).items() if len(files) > 1]:
                self._bring(f"{table}/{key}")
        return super().compact()

    @contextmanager
    def reserve(self, name: str, wait: bool = True, say: Callable[[str], None] = lambda line: None) -> Iterator[bool]:
        """Hold a run against all machines by an object that is put again and again.

        It is put first and looked for others after, so of two that begin at a time one at least sees the other.
        """
        begun, told = datetime.now(UTC), -math.inf
        while (silent := self._others_at(name)) is not None:
            self._leave(name)
            if not wait:
                yield False
                return
            if time.monotonic() - told >= _SAY_EVERY:
                told, since = time.monotonic(), f"{begun:%Y-%m-%d %H:%M} UTC"
                sign = f"its last sign of life is {silent:.0f} s old, of {_DEAD:.0f} it may be"
                say(f"waiting since {since} until another machine has done its work on {name} at {self.url}: {sign}")
            time.sleep(_PAUSE * (1 + secrets.randbelow(1000) / 1000))
        ended = threading.Event()
        beat = threading.Thread(target=self._live, args=(name, ended), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            ended.set()
            beat.join()
            self._leave(name)

    def held(self) -> frozenset[str]:
        """Those of which a sign of life lies at the URL that is new by this machine's clock."""
        found, now = list_objects(self.url, "claims"), time.time()
        return frozenset(PurePosixPath(i.path).parts[-2] for i in found if now - (i.mtime_ns or 0) / 1e9 < _DEAD)

    def exchange(self) -> None:
        """Bring records that changed at the URL, put those that changed here; see `Store`.

        A record is put as a further part, so that earlier ones are kept. One that changed on both sides since they
        were last alike goes as it is here.

        Raises:
            StoreError: Of what people made there are two versions, or the URL cannot be reached or lost what it had.
        """
        with self.claim("records"):
            for table in SCHEMAS:
                self._adopt(table)
            known = {place: (self.root / place).read_bytes() for place in self._parts_here("records")}
            found = list(_list(self.url, "records"))
            self._check_kept(known, map(_place, found))
            new = [(info, _get(self.url, info)) for info in found if _place(info) not in known]
            times = {name: info.mtime_ns for info, data in new for name in _texts([(_place(info), data)])}
            before = _texts(known.items())
            now = _texts([*known.items(), *((_place(info), data) for info, data in new)])
            here = {name: (self.folder / name).read_text(encoding="utf-8") for name in self._records()}
            for name, theirs in sorted(now.items()):
                if self._is_newer(name, here.get(name), theirs, before.get(name)):
                    write_text(self.folder / name, theirs)
                    os.utime(self.folder / name, ns=(when := times.get(name) or time.time_ns(), when))
            for info, data in new:
                self._save(info, data)
            for name, text in here.items():
                if text not in (now.get(name), before.get(name)):
                    self.amend("records", content_key("record", name), [{"name": name, "text": text}])

    def _is_newer(self, name: str, own: str | None, theirs: str, agreed: str | None) -> bool:
        """True if a record at the URL takes the place of the one here; `agreed` is what both sides last had."""
        if own in (None, agreed):  # nothing changed here
            return own != theirs
        if own != theirs != agreed and name in _BY_PEOPLE:  # both sides changed it
            todo = f"move {self.folder / name} away, run again, and put both together"
            raise StoreError(f"{name} was changed here and at {self.url}", "two versions", "one", todo)
        return False

    def _check_kept(self, known: Iterable[str], found: Iterable[str]) -> None:
        """Refuse a URL that lost records of this copy; to one of which no record is known, put all that is here."""
        gone = [each for each in {*known} - {*found} if not look_at(self.url, each).is_file]
        if gone:
            records = self.root / "records"
            raise StoreError(
                f"{self.url} has lost what was there",
                f"{plural(len(gone), 'record')} of those that {self.folder} is a copy of, first {min(gone)}",
                "what was there before: nothing is deleted there",
                "see that the bucket, the endpoint and the credentials are those of before; if objects were deleted "
                f"there, or it is another URL, delete {records} and run again: all that is here is put there",
            )
        for table in () if known else SCHEMAS:
            if here := self._parts_here(table):
                there = {_place(info) for info in _list(self.url, table)}
                for part in sorted(here - there, key=lambda place: (self.root / place).stat().st_mtime_ns):
                    put_object(self.url, part, (self.root / part).read_bytes())  # of two decisions the newer one counts

    # Parts, here and there.

    def _add(self, table: str, key: str, content: pa.Table) -> None:
        numbers = [int(part.name[:6]) for part in self._parts(table, key) if _PART.fullmatch(part.name)]
        self._put_part(table, key, max(numbers, default=_FIRST) + 1, content)

    def _put_first(self, table: str, key: str, content: pa.Table) -> Path:
        return self._put_part(table, key, _FIRST, content)

    def _put_part(self, table: str, key: str, number: int, content: pa.Table) -> Path:
        sink = pa.BufferOutputStream()
        pq.write_table(content, sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        place = f"{table}/{key}/{number:06d}-{_hash(data)}.parquet"
        put_object(self.url, place, data)
        self._save(look_at(self.url, place), data)  # with the server's time: of two decisions the newer one counts
        return self.root / place

    def _remove(self, part: Path) -> None:
        _remove(self.url, part.relative_to(self.root).as_posix())
        super()._remove(part)

    def _adopt(self, table: str) -> None:
        """Put the files of a table that were written before the folder was shared, with the times of then."""
        for file in sorted((self.root / table).glob("*.parquet")):
            key, _, number = file.stem.partition(".")
            with _told("read", str(file)):
                content = pq.read_table(file, use_threads=False)
            told = {WRITTEN: time_of(file).isoformat().encode(), **(content.schema.metadata or {})}
            self._put_part(table, key, int(number or 0) + 1, content.replace_schema_metadata(told))
            file.unlink()

    def _look_up(self, table: str, key: str) -> None:
        """Bring a piece, once."""
        if not self._brought & {table, f"{table}/{key}"}:
            self._bring(f"{table}/{key}")
            self._brought.add(f"{table}/{key}")

    def _bring(self, folder: str) -> None:
        """Copy what is in a folder of the URL and not here."""
        for _ in range(_ATTEMPTS):
            missing = [info for info in _list(self.url, folder) if not (self.root / _place(info)).is_file()]
            with ThreadPoolExecutor(max(1, min(_AT_A_TIME, len(missing)))) as pool:
                saved = list(pool.map(lambda info: self._save(info, _get(self.url, info)), missing))
            if all(saved):  # otherwise it was joined meanwhile: the joined one is in the next list
                return
        raise StoreError(f"{self.url}/{folder} does not come to rest", f"{len(missing)} objects gone", todo=_TODO)

    def _save(self, info: fs.FileInfo, data: bytes | None) -> bool:
        """Keep an object in the copy, with its time; False: it is gone."""
        if data is not None:
            when = info.mtime_ns or time.time_ns()
            os.utime(self._keep(_place(info), data), ns=(when, when))
        return data is not None

    def _keep(self, place: str, data: bytes) -> Path:
        """Write a part into the copy, whole or not at all."""
        with replacing(path := self.root / place) as temporary:
            temporary.write_bytes(data)
        return path

    def _parts_here(self, table: str) -> set[str]:
        return {file.relative_to(self.root).as_posix() for file in (self.root / table).glob("*/*.parquet")}

    def _records(self) -> list[str]:
        found = [path for pattern in RECORDS for path in self.folder.glob(pattern) if path.is_file()]
        return [path.relative_to(self.folder).as_posix() for path in found]

    # Who is at a run.

    @property
    def _owner(self) -> str:
        """The name of this folder on this machine: its own signs of life hold nobody up who has its locks."""
        return content_key(uuid.getnode(), os.uname().nodename, str(self.folder.resolve()))

    def _others_at(self, name: str) -> float | None:
        """Put a sign of life at a run; the age in seconds of another one that lives, None: there is none."""
        put_object(self.url, f"claims/{name}/{self._owner}", b"at work")
        found = [info for info in list_objects(self.url, f"claims/{name}") if info.mtime_ns]
        signs = {info.base_name: info.mtime_ns / 1e9 for info in found}
        now = signs.pop(self._owner, 0.0)  # all by the clock of the server
        return min((now - then for then in signs.values() if now - then < _DEAD), default=None)

    def _live(self, name: str, ended: threading.Event) -> None:
        while not ended.wait(_BEAT):
            with suppress(StoreError):  # who is taken for dead loses nothing: the run is done twice at worst
                put_object(self.url, f"claims/{name}/{self._owner}", b"at work")

    def _leave(self, name: str) -> None:
        with suppress(StoreError):
            _remove(self.url, f"claims/{name}/{self._owner}")


def _texts(parts: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """By name the newest of the records in some parts; what is no record of a folder is left out."""
    newest: dict[str, tuple[str, str]] = {}
    for place, data in parts:
        for row in pq.read_table(pa.BufferReader(data), schema=SCHEMAS["records"]).to_pylist() if data else ():
            name, order = row["name"], PurePosixPath(place).name
            if _is_record(name) and order > newest.get(name, ("", ""))[0]:
                newest[name] = order, row["text"]
    return {name: text for name, (_, text) in newest.items()}


def _is_record(name: str) -> bool:
    """True of a name inside a folder that `RECORDS` lists: a URL is not trusted to name others."""
    path = PurePosixPath(name)
    plain = not path.is_absolute() and ".." not in path.parts and "\\" not in name
    return plain and any(len(path.parts) == pattern.count("/") + 1 and path.match(pattern) for pattern in RECORDS)


# Objects.


@cache
def connect(url: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URL, and the path in it. S3: endpoint and region as AWS's own libraries have them."""
    scheme, place, path, *_ = urlsplit(url)
    if scheme == "file":
        folder = "/" + f"{place}{path}".lstrip("/")  # a path has joined its slashes
        raise StoreError("a folder is no URL", url, "s3://, gs://, ...", f"name the folder itself: {folder}")
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        to, _, address = endpoint.rpartition("://")
        s3 = fs.S3FileSystem(
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
            scheme=to or "https",
            endpoint_override=address.rstrip("/") or None,
            connect_timeout=10,
            request_timeout=60,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
            allow_delayed_open=True,  # small objects in one request
        )
        return s3, f"{place}{path}"
    try:
        return fs.FileSystem.from_uri(url)  # type: ignore[no-any-return]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as unknown:
        try:
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]
        except ImportError:
            raise MissingExtraError("fsspec is not installed", todo="pip install fsspec, and what it needs") from None
        try:
            system, path = url_to_fs(url)
        except (ImportError, ValueError) as error:
            allowed = "s3://, gs://, or what fsspec knows and is installed for it"
            raise StoreError("no file system is known of a URL", f"{url}: {error}", allowed) from unknown
        return fs.PyFileSystem(_Handler(system)), path


class _Handler(fs.FSSpecHandler):  # type: ignore[misc]
    """A file system of fsspec that answers from no memory of its own, with the times that it tells by any name."""

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        self.fs.invalidate_cache()
        return super().get_file_info(paths)  # type: ignore[no-any-return]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        self.fs.invalidate_cache()
        return super().get_file_info_selector(selector)  # type: ignore[no-any-return]

    @staticmethod
    def _create_file_info(path: str, info: dict[str, Any]) -> fs.FileInfo:
        told = (info.get(name) for name in ("mtime", "last_modified", "LastModified", "updated", "created"))
        when = next((each for each in told if isinstance(each, datetime | float)), None)
        return fs.FSSpecHandler._create_file_info(path, {**info, "mtime": when})


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _place(info: fs.FileInfo) -> str:
    """TABLE/KEY/PART of an object."""
    return "/".join(PurePosixPath(info.path).parts[-3:])


@contextmanager
def _told(what: str, url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"could not {what} {url}", str(error)[:300], todo=_TODO) from error


def _list(url: str, *folders: str) -> Iterator[fs.FileInfo]:
    """The parts under some folders of a URL; what is none is left out."""
    for folder in folders:
        for info in list_objects(url, folder):
            if _PART.fullmatch(info.base_name) and re.fullmatch(r"\w+/\w+/[^/]+", _place(info)):
                yield info


def list_objects(url: str, folder: str = "") -> list[fs.FileInfo]:
    """What is known of all objects under a folder of a URL; none where there is none.

    Raises:
        StoreError: They cannot be listed.
    """
    with _told("list", f"{url}/{folder}"):
        system, base = connect(url)
        where = f"{base}/{folder}".rstrip("/")
        found = system.get_file_info(fs.FileSelector(where, allow_not_found=True, recursive=True))
    return [info for info in found if info.type == fs.FileType.File]


def copy_object(url: str, info: fs.FileInfo, to: Path) -> None:
    """Copy an object into a file.

    Raises:
        StoreError: It cannot be read, or what came is shorter or longer than it.
    """
    with _told("copy", f"{url}/.../{info.base_name}"):
        fs.copy_files(
            info.path, str(to), source_filesystem=connect(url)[0], destination_filesystem=fs.LocalFileSystem()
        )
        if (got := to.stat().st_size) != info.size:
            raise OSError(f"{got:,} of {info.size:,} bytes came")


def put_object(url: str, place: str, data: bytes) -> None:
    """Put an object, whole.

    Raises:
        StoreError: It cannot be written.
    """
    with _told("write", f"{url}/{place}"):
        system, base = connect(url)
        with system.open_output_stream(f"{base}/{place}") as stream:
            stream.write(data)


def look_at(url: str, place: str) -> fs.FileInfo:
    """What is known of an object."""
    with _told("look at", f"{url}/{place}"):
        system, base = connect(url)
        return system.get_file_info(f"{base}/{place}")


def _get(url: str, info: fs.FileInfo) -> bytes | None:
    """The bytes of a part, which are those that its name says; None: it is gone."""
    got = 0
    for _ in range(_ATTEMPTS):
        with _told("read", f"{url}/{_place(info)}"):
            try:
                with connect(url)[0].open_input_stream(info.path) as stream:
                    data: bytes = stream.read()
            except FileNotFoundError:
                return None
        if _hash(data) in info.base_name:
            return data
        got = len(data)
    what, todo = f"{url}/{_place(info)} is broken", "delete that object and run again: it is made again"
    raise StoreError(what, f"{got:,} bytes whose hash is another", "the hash in its name", todo)


def _remove(url: str, place: str) -> None:
    with _told("delete", f"{url}/{place}"):
        system, base = connect(url)
        with suppress(FileNotFoundError):
            system.delete_file(f"{base}/{place}")
