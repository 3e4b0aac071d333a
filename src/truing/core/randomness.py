"""Counter-based random numbers: an answer's randomness depends on who it is, never on what ran before it.

Every answer has a stream, named by (sampling seed, checkpoint weights, prompt id, sample index). Its t-th
number is a hash of the stream's 128-bit key and t (two rounds of splitmix64's finaliser), so numbers can be
had in any order, in any batch, and no global generator is touched.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stream_keys(seed: int, weights: str, prompt_id: str, samples: int, first: int = 0) -> npt.NDArray[np.uint64]:
    """The keys of the streams of one prompt's samples `first`, `first + 1`, ..., `[samples, 2]`."""
    name = json.dumps([seed, weights, prompt_id]).encode()
    salts = (sample.to_bytes(8, "little") for sample in range(first, first + samples))
    digests = b"".join(hashlib.blake2b(name, digest_size=16, salt=salt).digest() for salt in salts)
    return np.frombuffer(digests, dtype="<u8").reshape(samples, 2).astype(np.uint64)


def answer_seed(seed: int, weights: str, prompt_id: str, sample: int) -> int:
    """A seed for whoever samples one answer elsewhere, 0 to 2**31 - 1; it follows from the same four."""
    return int(stream_keys(seed, weights, prompt_id, 1, sample)[0, 0] >> np.uint64(33))


def uniforms(keys: npt.NDArray[np.uint64], steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Number `steps[i]` of stream `keys[i]`, uniform in [0, 1) with 53 bits; `[n, 2]` and `[n]` to `[n]`."""
    mixed = _mix(_mix(keys[:, 0] + (steps.astype(np.uint64) + np.uint64(1)) * _GOLDEN) ^ keys[:, 1])
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
