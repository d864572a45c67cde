"""A bounded map of numbers to numbers that keeps what is used.

Two generations: what is put or asked for is in the young one; when that is full it becomes the old one, and the old one is
dropped. An entry takes about 150 bytes.
"""


class Recent:
    """A map; at most ``entries`` in each of its two generations."""

    def __init__(self, entries: int) -> None:
        if entries < 1:
            raise ValueError(f"a map needs room for at least one entry, not {entries}")
        self.entries = entries
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __contains__(self, key: int) -> bool:
        return key in self._young or key in self._old

    def get(self, key: int) -> int | None:
        """The value, or None."""
        value = self._young.get(key)
        if value is None and (value := self._old.pop(key, None)) is not None:
            self._put(key, value)
        return value

    def put(self, key: int, value: int) -> None:
        """Enter or replace."""
        self._old.pop(key, None)
        self._put(key, value)

    def _put(self, key: int, value: int) -> None:
        self._young[key] = value
        if len(self._young) >= self.entries:
            self._old, self._young = self._young, {}
