"""What stands for a request where the same pod should serve what belongs together: a header, a session, or the prompt's begin."""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash

from ralb_extproc.place.ask import Ask

# Blocks of 256 bytes of the canonical prompt: more than most greetings, less than most system prompts have in common.
_BLOCKS: Final = 4
NO_KEY: Final = 0


def key_of(ask: Ask, header: str = "") -> int:
    """64 bits of a header's value, where there is none of the session, and without one of the prompt's begin; 0 = nothing."""
    said = ask.headers.get(header, "") if header else ""
    if not said:
        said = ask.session
    return xxhash.xxh3_64_intdigest(said.encode("utf-8", "surrogatepass")) if said else prompt_key(ask)


def prompt_key(ask: Ask) -> int:
    """64 bits of the prompt's begin; 0 where it is too short to be worth keeping together."""
    hashes = ask.prefix.hashes
    return hashes[min(len(hashes), _BLOCKS) - 1] if hashes else NO_KEY


def written(key: int) -> str:
    """A key as Envoy is given it to hash; "" for none."""
    return f"{key:016x}" if key else ""


def digests(addresses: Iterable[str]) -> npt.NDArray[np.uint64]:
    """64 bits per pod."""
    return np.array([xxhash.xxh3_64_intdigest(address.encode()) for address in addresses], dtype=np.uint64)


def mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64 bits scrambled: the finalizer of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators)."""
    out = values + np.uint64(0x9E3779B97F4A7C15)
    out ^= out >> np.uint64(30)
    out *= np.uint64(0xBF58476D1CE4E5B9)
    out ^= out >> np.uint64(27)
    out *= np.uint64(0x94D049BB133111EB)
    out ^= out >> np.uint64(31)
    return out
