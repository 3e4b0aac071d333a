"""Where a training saves its checkpoints: a folder, or a URL whose checkpoints are copied here while they are asked."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from shutil import rmtree

from pyarrow.fs import FileInfo

from truing.core.errors import DataError, StoreError
from truing.core.files import replacing, write_text
from truing.core.records import Checkpoint
from truing.monitor.shared import connect, copy_object, list_objects, look_at, put_object, url_in
from truing.studies.checkpoints import check_whole
from truing.studies.places import CONFIGS, has_config, weights_folder

_UNREAD = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
"""Endings of files that no engine reads, such as an optimizer's: of them the names are enough, and of its shards."""
_AT_A_TIME = 8
_BEFORE_STATE = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state.pth")
"""Files that a Trainer saves before `trainer_state.json`, its last."""
File = tuple[str, int, int | None]
"""Name within the checkpoint, bytes, and time of the last change in nanoseconds; None: it is not told."""


def check_saved(checkpoint: Path) -> None:
    """Raise unless a checkpoint is whole, with the files that are saved last.

    Raises:
        DataError: It is not.
    """
    weights = weights_folder(checkpoint)
    check_whole(weights)
    if any(weights.glob("*-of-*.safetensors")) and not any(weights.glob("*.safetensors.index.json")):
        raise DataError(f"{checkpoint} is not whole", "shards without their index, which is saved last")
    if not (checkpoint / "trainer_state.json").is_file() and any(
        (checkpoint / name).is_file() for name in _BEFORE_STATE
    ):
        raise DataError(f"{checkpoint} is not whole", "no trainer_state.json, which a Trainer saves last")


def words_of(error: OSError) -> str:
    """What an error of a disk or a network says."""
    return error.strerror or " ".join(str(error).split())[:300] or type(error).__name__


class WatchedFolder:
    """The folders in a folder of this machine; `OSError` where it cannot be read now."""

    one_by_one = False
    """True if each checkpoint is to be evaluated before the next one is brought."""

    def __init__(self, place: Path | str, here: Path) -> None:
        self.place, self.here = str(place), here
        """What users call it, and where its checkpoints are read."""
        self.told: list[str] = []
        """What is to be said of it."""

    def names(self) -> set[str]:
        """The folders in it."""
        try:
            return {each.name for each in self.here.iterdir() if each.is_dir()}
        except FileNotFoundError:
            return set()

    def files(self, name: str) -> list[File]:
        """The files in one of its folders."""
        files = [file for file in sorted((self.here / name).rglob("*")) if file.is_file()]
        stats = [(str(file.relative_to(self.here / name)), file.stat()) for file in files]
        return [(at, stat.st_size, stat.st_mtime_ns) for at, stat in stats]

    def holds_model(self, name: str) -> bool:
        """True if a folder in it, or with no name it itself, has the config of a model or an adapter."""
        return has_config(self.here / name)

    def bring(self, name: str) -> Path:
        """The folder of this machine in which a checkpoint can be read."""
        return self.here / name

    def keep(self, names: Collection[str]) -> None:
        """Let go of copies of all others."""

    def has(self, checkpoint: Checkpoint) -> bool:
        """True if it is there, by when this was last looked at."""
        return Path(checkpoint.path or checkpoint.model).is_dir()

    def named(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with the path that users know."""
        return _moved(checkpoint, str(self.here), self.place)

    def read(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with the path at which it is read; undoes `named`."""
        return _moved(checkpoint, self.place, str(self.here))

    def name_of(self, checkpoint: Checkpoint) -> str:
        """The name of a checkpoint's folder, as it is read; empty: it is not one of these."""
        path = Path(checkpoint.path or checkpoint.model)
        return path.relative_to(self.here).parts[0] if self.here in path.parents else ""


class WatchedUrl(WatchedFolder):
    """What a folder is, at a URL: its names are the first parts of those of the objects.

    Args:
        place: The URL.
        here: The folder for copies.

    Raises:
        StoreError: It cannot be listed.
    """

    one_by_one = True

    def __init__(self, place: str, here: Path) -> None:
        super().__init__(place, here)
        self._listed: dict[str, dict[str, FileInfo]] = {}
        try:
            if not self.names():
                self.told = [f"nothing is at {place} yet"]
            elif None in (info.mtime_ns for infos in self._listed.values() for info in infos.values()):
                self.told = [f"{place} tells no times: what is saved again with as many bytes is not seen"]
        except OSError as error:
            todo = "see that the URL, the network and the credentials are right, then run the same command again"
            raise StoreError(f"could not list {place}", str(error), todo=todo) from error

    def names(self) -> set[str]:
        """The folders under the URL; see `WatchedFolder`."""
        try:
            _, base = connect(self.place)
            found = list_objects(self.place)
        except StoreError as error:
            raise OSError(error.got) from error
        self._listed = {}
        for info in found:
            name, *inner = PurePosixPath(info.path.strip("/")).relative_to(base.strip("/")).parts
            if not inner:
                name, inner = "", [name]
            if ".." not in (name, *inner) and "\\" not in info.path:  # it is not trusted to name others
                self._listed.setdefault(name, {})["/".join(inner)] = info
        return self._listed.keys() - {""}

    def holds_model(self, name: str) -> bool:
        """True by the names of its objects; see `WatchedFolder`."""
        return any(config in self._listed.get(name, ()) for config in CONFIGS)

    def files(self, name: str) -> list[File]:
        """The objects of a folder, when it was last looked at; see `WatchedFolder`."""
        return [(at, info.size, info.mtime_ns) for at, info in sorted(self._listed.get(name, {}).items())]

    def bring(self, name: str) -> Path:
        """Copy what is not here yet, each file whole; see `WatchedFolder`."""
        folder, before = self.here / name, self.files(name)
        if not before:
            raise FileNotFoundError(f"{self.place}/{name}")
        for file in folder.rglob("*"):
            if file.is_file() and file.relative_to(folder).as_posix() not in self._listed[name]:
                file.unlink()
        try:
            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                list(pool.map(partial(self._copy, folder), self._listed[name].items()))
        except StoreError as error:
            raise OSError(f"{error.what}: {error.got}") from error
        self.names()
        if self.files(name) != before:
            raise OSError(f"{self.place}/{name} changed while it was copied")
        return folder

    def keep(self, names: Collection[str]) -> None:
        """Remove the copies of all others; see `WatchedFolder`."""
        for folder in self.here.glob("*"):
            if folder.name not in names:
                rmtree(folder)

    def has(self, checkpoint: Checkpoint) -> bool:
        """True if it is at the URL, or its copy here; see `WatchedFolder`."""
        return self.name_of(checkpoint) in self._listed or super().has(checkpoint)

    def _copy(self, folder: Path, each: tuple[str, FileInfo]) -> None:
        (name, info), unread = each, each[0].endswith(_UNREAD) or each[0].startswith("optimizer")
        size = 0 if unread else info.size
        to, when = folder / name, info.mtime_ns or 0
        if to.is_file() and (to.stat().st_size, to.stat().st_mtime_ns) == (size, when):
            return
        with replacing(to) as temporary:
            if size:
                copy_object(self.place, info, temporary)
            else:
                temporary.touch()
            os.utime(temporary, ns=(when, when))


def watched(directory: str, out: Path) -> WatchedFolder:
    """What a watch watches: a folder, or a URL, whose copies lie in `OUT/fetched`.

    Raises:
        StoreError: The URL cannot be listed, or is a folder's.
    """
    if url := url_in(directory):
        if url.startswith("file:"):
            connect(url)  # refuses it, and names the folder
        return WatchedUrl(url, out.resolve() / "fetched" / PurePosixPath(url).name)
    found = WatchedFolder(Path(directory).resolve(), Path(directory).resolve())
    found.told = [] if found.here.exists() else [f"nothing is at {found.place} yet"]
    return found


def is_there(file: Path) -> bool:
    """True if a file is there, or an object of that URL.

    Raises:
        StoreError: The URL cannot be asked.
    """
    url, _, name = url_in(str(file)).rpartition("/")
    return look_at(url, name).is_file if url else file.exists()


def put_there(file: Path, text: str) -> None:
    """Write a file, or put an object at that URL, whole.

    Raises:
        StoreError: It cannot be written.
    """
    url, _, name = url_in(str(file)).rpartition("/")
    if url:
        put_object(url, name, text.encode())
    else:
        write_text(file, text)


def _moved(checkpoint: Checkpoint, old: str, new: str) -> Checkpoint:
    def moved(text: str) -> str:
        return new + text.removeprefix(old) if text.startswith(f"{old}/") else text

    path = None if checkpoint.path is None else moved(checkpoint.path)
    return replace(checkpoint, model=moved(checkpoint.model), path=path)
