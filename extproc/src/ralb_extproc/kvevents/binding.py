"""Which block of a prompt (bytes) each block of an engine's cache (tokens) is needed for.

A block of tokens is bound to the first of our blocks that ends after its beginning. Where ours end in tokens is estimated: the
whole prompt's length in tokens is exact, and so is where it leaves what the pod had cached; between these, tokens are taken to
be spread evenly over the bytes. The second is what matters. A shared beginning (a system prompt) must not be bound to the ends
of single prompts, or their eviction would seem to take it along; so when a later prompt is found to leave the cached ones at a
token before the estimated end of a block they share, that end is corrected, and bindings beyond it no longer count.

Pure, over two maps: bindings (engine's block -> place of its beginning and our block, of all pods of a pool) and ends (our
block -> where it ends, of one pod, in tokens).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from ralb_extproc.kvevents.recent import Recent
from ralb_extproc.place import Prefix

_MASK: Final = (1 << 64) - 1
# A prompt that leaves the cached ones earlier than this share of where they were thought to part does so for another reason:
# their common part was evicted. Bytes per token do not vary by more within a prompt.
_PLAUSIBLE: Final = 0.5


def needed(blocks: Iterable[int], bindings: Recent, ends: Recent) -> list[int]:
    """Our blocks that need these, each once, in order; bindings that proved wrong since they were made are left out."""
    if not len(bindings):
        return []
    found: dict[int, None] = {}
    for block in blocks:
        bound = bindings.get(block)
        if bound is None:
            continue
        ours = bound & _MASK
        end = ends.get(ours)
        if end is None or bound >> 64 < end:
            found[ours] = None
    return list(found)


def bind(
    blocks: Sequence[int], begin: int, size: int, prefix: Prefix, tokens: int, bindings: Recent, ends: Recent
) -> None:
    """Bind consecutive blocks of a prompt.

    Args:
        blocks: the engine's, that end where the prompt does, or shortly before.
        begin: how many blocks of the prompt come before them.
        size: tokens per block.
        prefix: the prompt.
        tokens: its exact length.
        bindings: added to.
        ends: of the pod that has the blocks; corrected and added to.
    """
    again = next((i for i, block in enumerate(blocks) if block not in bindings), len(blocks))
    places = _places(prefix, tokens, (begin + again) * size, ends)
    ours = 0
    for position, block in enumerate(blocks[again:], begin + again):
        at = position * size
        while ours < len(places) and places[ours] <= at:
            ours += 1
        if ours == len(places):
            return
        bindings.put(block, at << 64 | prefix.hashes[ours])


def _places(prefix: Prefix, tokens: int, parts: int, ends: Recent) -> list[int]:
    """Where each block of a prompt ends, in tokens; the known ones corrected, the others entered.

    ``parts`` is where the prompt leaves what was known of the pod.
    """
    places: list[int] = []
    for ours in prefix.hashes:
        end = ends.get(ours)
        if end is None:
            break
        places.append(end)
    known = len(places)
    if known and places[-1] >= tokens:  # it cannot be: these are of a prompt that was matched wrongly
        places, known = [], 0
    if known and _PLAUSIBLE * places[-1] <= parts < places[-1]:
        places = [min(place, parts) for place in places]
    base = places[-1] if known else 0
    share = prefix.share(known)
    rest = max(1e-9, 1.0 - share)
    for count in range(known + 1, len(prefix.hashes) + 1):
        places.append(round(base + (tokens - base) * (prefix.share(count) - share) / rest))
    for ours, place in zip(prefix.hashes, places, strict=True):
        ends.put(ours, place)
    return places
