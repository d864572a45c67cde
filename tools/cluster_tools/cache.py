"""A cache of folders that are whole or not there at all.

A folder is made under another name and renamed when it is complete, so a killed build leaves nothing half. A lock that dies with
its holder keeps two runs from building the same twice. The trap: a folder's key must cover everything that decides its content,
because what is there is never looked at again.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_PARTIAL = ".partial-"
_KEPT = 3


def root(environment: Mapping[str, str] = os.environ) -> Path:
    """The cache: ``$RALB_CACHE``, else ``ralb`` in ``$XDG_CACHE_HOME``, else ``~/.cache/ralb``."""
    if own := environment.get("RALB_CACHE"):
        return Path(own).absolute()
    if shared := environment.get("XDG_CACHE_HOME"):
        return Path(shared).absolute() / "ralb"
    return Path.home() / ".cache" / "ralb"


def folder(kind: str, key: str) -> Path:
    """Where the content of this key is, or will be."""
    return root() / kind / key


def once(kind: str, key: str, make: Callable[[Path], None], *, say: Callable[[str], None] = print) -> Path:
    """The folder of ``key``, made by ``make(empty_folder)`` if it is not there yet.

    Of older keys of the kind the last few stay, so that switching branches does not build everything again.

    Raises:
        OSError: the cache cannot be written.
        Exception: whatever ``make`` raises; nothing is left of that attempt.
    """
    final = folder(kind, key)
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with _locked(final.parent / ".lock", say):
        if final.is_dir():
            return final
        for leftover in final.parent.glob(_PARTIAL + "*"):
            _remove(leftover)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=final.parent))
        try:
            make(partial)
            partial.chmod(0o755)
            partial.rename(final)
        finally:
            _remove(partial)
        _prune(final.parent)
    return final


@contextlib.contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock; it ends with the process however that ends. Child processes do not inherit it."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another run is building {path.parent.name}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prune(parent: Path) -> None:
    made = [entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    for old in sorted(made, key=lambda entry: entry.stat().st_mtime_ns, reverse=True)[_KEPT:]:
        _remove(old)


def _remove(path: Path) -> None:
    """Removes a folder tree; what Go or a package wrote read-only is made writable first."""
    if not path.is_dir():
        return
    for current, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            os.chmod(current, 0o755)
    shutil.rmtree(path, ignore_errors=True)
