"""Servers that stand for Azure's and Google's storage, each with a container or bucket `results`.

npm i azurite;                      TRUING_AZURITE=node_modules/.bin/azurite-blob (and `pip install adlfs`)
pip install gcp-storage-emulator;   TRUING_GCS=bin/gcp-storage-emulator
"""

from __future__ import annotations

import base64
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["CLOUDS", "CloudServer"]

CLOUDS = {
    "az": "" if importlib.util.find_spec("adlfs") is None else os.environ.get("TRUING_AZURITE", ""),
    "gs": os.environ.get("TRUING_GCS", ""),
}
"""Scheme of URLs -> the server's program; empty: it is not here."""
_START = 60.0


class CloudServer:
    """One of them, in a process of its own; `environment` is that of a process that is to find it."""

    def __init__(self, scheme: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        if scheme == "az":
            key = base64.b64encode(secrets.token_bytes(32)).decode()
            command = ["--blobPort", str(port), "--inMemoryPersistence", "--silent", "--skipApiVersionCheck"]
            at = f"BlobEndpoint=http://127.0.0.1:{port}/results;"
            told = f"DefaultEndpointsProtocol=http;AccountName=results;AccountKey={key};{at}"
            self.environment, own = {"AZURE_STORAGE_CONNECTION_STRING": told}, {"AZURITE_ACCOUNTS": f"results:{key}"}
            self.url = "az://results"
        else:
            command = ["start", "--host=localhost", f"--port={port}", "--in-memory", "--default-bucket=results"]
            self.environment, own = {"CLOUD_STORAGE_EMULATOR_ENDPOINT": f"http://localhost:{port}"}, {}
            self.url = "gs://anonymous@results"
        with (folder / "log.txt").open("wb") as file:
            given = {"cwd": folder, "env": {**os.environ, **own}, "stdout": file, "stderr": file}
            self.process = subprocess.Popen([CLOUDS[scheme], *command], **given)  # type: ignore[call-overload]
        deadline = time.monotonic() + _START
        while True:
            with socket.socket() as client:
                if not client.connect_ex(("127.0.0.1", port)):
                    break
            assert time.monotonic() < deadline, (folder / "log.txt").read_text()
            time.sleep(0.1)
        if scheme == "az":
            make = "import adlfs, os; c = os.environ['AZURE_STORAGE_CONNECTION_STRING'];"
            make += "adlfs.AzureBlobFileSystem(connection_string=c).mkdir('results')"
            subprocess.run([sys.executable, "-c", make], env={**os.environ, **self.environment}, check=True)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
