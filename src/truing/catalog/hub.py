"""Files of data sets on the Hugging Face hub, by a name that a study can hold: `hub:OWNER/NAME[@REVISION]/FILE`."""

from __future__ import annotations

import re
from pathlib import Path

from truing.core.errors import DataError, MissingExtraError

__all__ = ["fetch_file"]

_NAME = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/(.+)")


def fetch_file(path: Path) -> Path:
    """The local copy of a hub file, downloaded if it is not there yet; any other path as it is.

    Raises:
        DataError: The name is malformed, or there is no such file, or no way to the hub.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    name = path.as_posix()
    if not name.startswith("hub:"):
        return path
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise DataError("not a file on the hub", name, "hub:OWNER/NAME/FILE, or hub:OWNER/NAME@REVISION/FILE")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise MissingExtraError.of("huggingface_hub", "hf") from None
    repository, revision, file = parts.groups()
    try:
        return Path(hf_hub_download(repository, file, repo_type="dataset", revision=revision))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot fetch {name}",
            f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            "a public file, or one that your own login may read",
            "check the name and the network; without one, download the file elsewhere and name its path",
        ) from error
