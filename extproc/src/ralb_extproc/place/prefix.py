"""Which pods are likely to hold which prefix of a prompt.

A prompt is flattened to canonical bytes (``prompt``), cut into blocks and hashed in a chain, so that a block's hash stands for
everything up to its end. The index maps a hash to the set of pods (an int used as a bit set) that were sent a prompt with it.

Blocks grow with depth (256 bytes, about 64 tokens, at first; never more than 1/64 of their offset beyond 16 KiB), which keeps
any prompt under ``MAX_BLOCKS`` blocks at a bounded relative error.

There is one index per pool, bounded by two generations: what is touched goes to the young one; when that is full it becomes the
old one, and the old one is dropped a few entries at a time. A generation is full at three quarters of what the pods' caches hold
together, so that what they will have evicted is forgotten at about the same time; and at a number of entries, for memory. An
entry takes 130 to 200 bytes with up to 60 pods, plus 1 byte per 7.5 pods beyond. A bit of a gone pod is used again only when no
entry can carry it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import xxhash

from ralb_extproc.place.columns import Floats, Slots

_FIRST: Final = 256
_DEPTH: Final = 64
MAX_BYTES: Final = 4 << 20


def _bounds() -> tuple[int, ...]:
    out = [0]
    while out[-1] < MAX_BYTES:
        size = _FIRST
        while size * 2 * _DEPTH <= out[-1]:
            size *= 2
        out.append(out[-1] + size)
    return tuple(out)


_BOUNDS: Final = _bounds()
_SPANS: Final = tuple(pairwise(_BOUNDS))
MAX_BLOCKS: Final = len(_SPANS)
_DRAIN: Final = 64
_FEW: Final = 4
# Prompt bytes per token of cache at which a generation is full: 4 bytes a token, and 3/4 of the caches, which on a trace of
# prompts far larger than the caches found more true hits than 1/2 and far fewer false ones than 1.
_FULL_BYTES: Final = 4.0 * 0.75


@dataclass(frozen=True, slots=True)
class Prefix:
    """The hashed blocks of a prompt.

    Attributes:
        hashes: chained 64-bit hash of every whole block, first block first.
        size: length of the canonical prompt in bytes.
    """

    hashes: tuple[int, ...] = ()
    size: int = 0

    def share(self, blocks: int) -> float:
        """Which share of the prompt its first ``blocks`` blocks are, 0 to 1."""
        return _BOUNDS[blocks] / self.size if self.size else 0.0


NO_PREFIX: Final = Prefix()


def hash_blocks(data: bytes, seed: int = 0) -> Prefix:
    """Hash canonical prompt bytes; bytes beyond ``MAX_BYTES`` count in ``size`` but are not hashed.

    Args:
        data: the canonical prompt.
        seed: set apart what cannot share a cache (other adapters, other models); 64 bits.
    """
    size = len(data)
    view = memoryview(data)
    digest = xxhash.xxh3_64_intdigest
    hashes: list[int] = []
    for start, end in _SPANS:
        if end > size:
            break
        seed = digest(view[start:end], seed)
        hashes.append(seed)
    return Prefix(tuple(hashes), size)


class PrefixIndex:
    """Prefix hash -> pods, bounded.

    Args:
        entries: most blocks in each of the two generations.

    Attributes:
        entries: the same; may be changed.
        capacity: tokens that the pods' caches hold together; 0 = unknown.
    """

    def __init__(self, entries: int = 131_072) -> None:
        if entries < 1:
            raise ValueError(f"a prefix index needs room for at least one entry, not {entries}")
        self.entries = entries
        self.capacity = 0.0
        self._stored = 0.0  # bytes of prompt that entered pods' caches during the young generation
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._dying: dict[int, int] = {}
        self._bit: dict[int, int] = {}  # slot -> bit
        self._asked: tuple[int, ...] = ()  # the slots hits was last asked about, and their bits; -1 = none
        self._asked_bits: Slots = np.empty(0, dtype=np.intp)
        self._live = 0  # mask of bits in use
        self._free: list[int] = []
        self._retired: list[tuple[int, int]] = []  # (rotation at which it was retired, bit)
        self._bits = 0
        self._rotations = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def record(self, prefix: Prefix, slot: int) -> None:
        """Note that a pod was sent this prompt (it will hold it soon)."""
        if not prefix.hashes:
            return
        bit = self._bit.get(slot)
        if bit is None:
            bit = self._take_bit(slot)
        mask = 1 << bit
        live = self._live
        young, old = self._young, self._old
        new = 0
        for (start, end), h in zip(_SPANS, prefix.hashes, strict=False):
            known = young.get(h)
            if known is None:
                known = old.get(h, 0) & live
                new += end - start
            elif not known & mask:
                new += end - start
            young[h] = known | mask
        self._stored += new
        self._bound(len(prefix.hashes))

    def hits(self, prefix: Prefix, slots: tuple[int, ...], tokens: int) -> Floats | None:
        """Prompt tokens each pod is expected to hold already.

        Args:
            prefix: the prompt.
            slots: the pods to compare; asking with the same tuple again is cheap.
            tokens: length of the prompt in tokens; blocks are converted to tokens by their share of the prompt's bytes.

        Returns:
            One value per slot, 0 to ``tokens``; None when no pod at all holds any of it.
        """
        young, old = self._young, self._old
        live = mask = self._live
        by_bit: Floats | None = None
        scale = tokens / prefix.size if prefix.size else 0.0
        depth = 0
        for h in prefix.hashes:
            known = young.get(h)
            if known is None:
                known = old.get(h, 0)
            still = mask & known
            if still != mask:
                if depth:
                    by_bit = self._set(by_bit, mask ^ still, _BOUNDS[depth] * scale)
                mask = still
                if not still:
                    break
            depth += 1
        if mask and depth and live:
            by_bit = self._set(by_bit, mask, _BOUNDS[depth] * scale)
        if by_bit is None:
            return None
        if slots is not self._asked:
            self._asked = slots
            self._asked_bits = np.array([self._bit.get(slot, -1) for slot in slots], dtype=np.intp)
        out: Floats = by_bit[self._asked_bits]
        return out

    def _set(self, by_bit: Floats | None, mask: int, value: float) -> Floats:
        """Write a value for all bits of a mask; the last element stands for slots without a bit and stays 0."""
        if by_bit is None:
            by_bit = np.zeros(self._bits + 1)
        if mask.bit_count() <= _FEW:
            while mask:
                low = mask & -mask
                by_bit[low.bit_length() - 1] = value
                mask ^= low
        else:
            raw = np.frombuffer(mask.to_bytes((self._bits + 7) // 8, "little"), dtype=np.uint8)
            by_bit[:-1][np.unpackbits(raw, count=self._bits, bitorder="little").view(np.bool_)] = value
        return by_bit

    def hold(self, slot: int, hashes: Iterable[int]) -> None:
        """Note that a pod holds these blocks, as it says itself."""
        bit = self._bit.get(slot)
        mask = 1 << (self._take_bit(slot) if bit is None else bit)
        young, old, live = self._young, self._old, self._live
        count = 0
        for h in hashes:
            known = young.get(h)
            young[h] = (old.get(h, 0) & live if known is None else known) | mask
            count += 1
        self._bound(count)

    def evict(self, slot: int, hashes: Iterable[int]) -> None:
        """Note that a pod no longer holds these blocks, and so nothing that follows them."""
        bit = self._bit.get(slot)
        if bit is None:
            return
        rest = ~(1 << bit)
        for h in hashes:
            for entries in (self._young, self._old):
                if h in entries:
                    entries[h] &= rest

    def forget(self, slot: int) -> None:
        """Note that a pod's cache is gone (it left or restarted)."""
        bit = self._bit.pop(slot, None)
        if bit is None:
            return
        self._asked = ()
        self._live &= ~(1 << bit)
        self._retired.append((self._rotations, bit))
        if len(self._retired) > 4096:  # endless churn without traffic: start anew rather than let bit sets grow
            self._dying, self._young, self._old = {}, {}, {}
            self._free.extend(b for _, b in self._retired)
            self._retired.clear()

    def _take_bit(self, slot: int) -> int:
        if self._free:
            bit = self._free.pop()
        else:
            bit = self._bits
            self._bits += 1
        self._bit[slot] = bit
        self._asked = ()
        self._live |= 1 << bit
        return bit

    def _bound(self, added: int) -> None:
        """Drop some of the generation before the old one; begin another when the young one is full."""
        dying = self._dying
        for _ in range(min(len(dying), _DRAIN + 4 * added)):
            dying.popitem()
        if len(self._young) >= self.entries or self._stored > self.capacity * _FULL_BYTES > 0.0:
            self._rotate()

    def _rotate(self) -> None:
        self._dying, self._old, self._young = self._old, self._young, {}
        self._rotations += 1
        self._stored = 0.0
        # Young entries may hold a bit retired while they were young; two rotations later both generations are newer.
        while self._retired and self._retired[0][0] + 2 <= self._rotations:
            self._free.append(self._retired.pop(0)[1])
