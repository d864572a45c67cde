"""Which pods are likely to hold which prefix of a prompt.

A prompt is flattened to canonical bytes (``prompt``), cut into blocks and hashed in a chain, so that a block's hash stands for
everything up to its end. Blocks grow with depth (256 bytes, about 64 tokens, at first; never more than 1/64 of their offset
beyond 16 KiB), which keeps any prompt under ``MAX_BLOCKS`` blocks at a bounded relative error.

The index does what the engines do: each pod's blocks are in order of their last use, and the oldest go when they are more than
the pod's cache holds, the end of a prompt before its beginning. So a pod that is sent much forgets fast, whatever its peers
still hold. One map from block to the set of pods (an int used as a bit set) answers for all pods at once.

There is one index per pool, with a bound on its entries, one per pod and block, of 125 to 340 bytes each.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Final

import numpy as np
import xxhash

from ralb_extproc.place.columns import Floats, Slots

_FIRST: Final = 256
_DEPTH: Final = 64
MAX_BYTES: Final = 4 << 20
_FEW: Final = 4
_BYTES_PER_TOKEN: Final = 4.0


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


@dataclass(frozen=True, slots=True)
class Prefix:
    """The hashed blocks of a prompt.

    Attributes:
        hashes: chained 64-bit hash of every whole block, first block first.
        size: length of the prompt, in bytes of its canonical form or in whatever unit ``bounds`` has.
        bounds: where blocks begin and end: block n from ``bounds[n]`` to ``bounds[n + 1]``.
    """

    hashes: tuple[int, ...] = ()
    size: int = 0
    bounds: Sequence[int] = _BOUNDS

    def share(self, blocks: int) -> float:
        """Which share of the prompt its first ``blocks`` blocks are, 0 to 1."""
        return self.bounds[blocks] / self.size if self.size else 0.0


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


class _Held:
    """What one pod is believed to hold: block -> its tokens, least recently used first."""

    __slots__ = ("bit", "blocks", "capacity", "tokens")

    def __init__(self, bit: int, capacity: float) -> None:
        self.bit = bit
        self.capacity = capacity
        self.blocks: OrderedDict[int, float] = OrderedDict()
        self.tokens = 0.0


class PrefixIndex:
    """Prefix hash -> pods, bounded.

    Args:
        entries: most pairs of pod and block.

    Attributes:
        entries: the same; may be changed.
    """

    def __init__(self, entries: int = 524_288) -> None:
        if entries < 1:
            raise ValueError(f"a prefix index needs room for at least one entry, not {entries}")
        self.entries = entries
        self._holders: dict[int, int] = {}
        self._held: dict[int, _Held] = {}  # by slot
        self._capacity: dict[int, float] = {}  # tokens, by slot
        self._count = 0
        self._free: list[int] = []
        self._bits = 0
        self._asked: tuple[int, ...] = ()  # the slots hits was last asked about, and their bits; -1 = none
        self._asked_bits: Slots = np.empty(0, dtype=np.intp)

    def __len__(self) -> int:
        return self._count

    def hold_at_most(self, slot: int, tokens: float) -> None:
        """Say how large a pod's cache is; inf = not known."""
        self._capacity[slot] = tokens
        held = self._held.get(slot)
        if held is not None and held.capacity != tokens:
            held.capacity = tokens
            self._shrink(held)

    def record(self, prefix: Prefix, slot: int, tokens: int = 0) -> None:
        """Note that a pod was sent this prompt (it will hold it soon).

        Args:
            prefix: the prompt.
            slot: the pod.
            tokens: length of the prompt; 0 = a token per 4 bytes.
        """
        if not prefix.hashes:
            return
        held = self._held.get(slot) or self._enter(slot)
        blocks, bit = held.blocks, 1 << held.bit
        holders, bounds = self._holders, prefix.bounds
        scale = tokens / prefix.size if tokens else 1.0 / _BYTES_PER_TOKEN
        touch = blocks.move_to_end
        # The beginning last, so that it is the most recent.
        depth = len(prefix.hashes)
        for h in reversed(prefix.hashes):
            depth -= 1
            if h in blocks:
                touch(h)
            else:
                size = (bounds[depth + 1] - bounds[depth]) * scale
                blocks[h] = size
                held.tokens += size
                self._count += 1
                holders[h] = holders.get(h, 0) | bit
        self._shrink(held)

    def hits(self, prefix: Prefix, slots: tuple[int, ...], tokens: int) -> Floats | None:
        """Prompt tokens each pod is expected to hold already.

        Args:
            prefix: the prompt.
            slots: the pods to compare; asking with the same tuple again is cheap.
            tokens: length of the prompt in tokens; blocks are converted to tokens by their share of the prompt's size.

        Returns:
            One value per slot, 0 to ``tokens``; None when no pod at all holds any of it.
        """
        hashes = prefix.hashes
        holders = self._holders
        mask = holders.get(hashes[0], 0) if hashes else 0
        if not mask:
            return None
        bounds = prefix.bounds
        scale = tokens / prefix.size
        by_bit = np.zeros(self._bits + 1)
        for depth, h in enumerate(hashes):
            still = mask & holders.get(h, 0)
            if still != mask:
                self._set(by_bit, mask ^ still, bounds[depth] * scale)
                mask = still
                if not still:
                    break
        else:
            self._set(by_bit, mask, bounds[len(hashes)] * scale)
        if slots is not self._asked:
            self._asked = slots
            bits = [self._held[slot].bit if slot in self._held else -1 for slot in slots]
            self._asked_bits = np.array(bits, dtype=np.intp)
        out: Floats = by_bit[self._asked_bits]
        return out

    def _set(self, by_bit: Floats, mask: int, value: float) -> None:
        """Write a value for all bits of a mask; the last element stands for slots without a bit and stays 0."""
        if mask.bit_count() <= _FEW:
            while mask:
                low = mask & -mask
                by_bit[low.bit_length() - 1] = value
                mask ^= low
        else:
            raw = np.frombuffer(mask.to_bytes((self._bits + 7) // 8, "little"), dtype=np.uint8)
            by_bit[:-1][np.unpackbits(raw, count=self._bits, bitorder="little").view(np.bool_)] = value

    def hold(self, slot: int, hashes: Iterable[int]) -> None:
        """Note that a pod holds these blocks, as it says itself; it will also say when it does no longer."""
        held = self._held.get(slot) or self._enter(slot)
        bit = 1 << held.bit
        for h in hashes:
            if h not in held.blocks:
                held.blocks[h] = 0.0
                self._count += 1
                self._holders[h] = self._holders.get(h, 0) | bit
        self._shrink(held)

    def evict(self, slot: int, hashes: Iterable[int]) -> None:
        """Note that a pod no longer holds these blocks, and so nothing that follows them."""
        held = self._held.get(slot)
        if held is None:
            return
        for h in hashes:
            size = held.blocks.pop(h, None)
            if size is not None:
                held.tokens -= size
                self._drop(h, held)

    def forget(self, slot: int) -> None:
        """Note that a pod's cache is gone (it left or restarted)."""
        held = self._held.pop(slot, None)
        if held is None:
            return
        for h in held.blocks:
            self._drop(h, held)
        self._free.append(held.bit)
        self._asked = ()

    def _enter(self, slot: int) -> _Held:
        if self._free:
            bit = self._free.pop()
        else:
            bit = self._bits
            self._bits += 1
        held = self._held[slot] = _Held(bit, self._capacity.get(slot, inf))
        self._asked = ()
        return held

    def _shrink(self, held: _Held) -> None:
        """Let go of what a pod's cache has no room for, and of what this index has none for."""
        blocks, capacity = held.blocks, held.capacity
        while blocks and held.tokens > capacity:
            h, size = blocks.popitem(last=False)
            held.tokens -= size
            self._drop(h, held)
        if self._count > self.entries:
            part = max(1, self.entries // len(self._held))
            for other in self._held.values():
                while len(other.blocks) > part and self._count > self.entries:
                    h, size = other.blocks.popitem(last=False)
                    other.tokens -= size
                    self._drop(h, other)

    def _drop(self, h: int, held: _Held) -> None:
        self._count -= 1
        left = self._holders[h] & ~(1 << held.bit)
        if left:
            self._holders[h] = left
        else:
            del self._holders[h]
