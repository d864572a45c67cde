"""Certificates for tests, and folders that change as the kubelet changes a mounted Secret."""

import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ralb_api.tls import CA_FILE, CERT_FILE, KEY_FILE, Keeper, check
from ralb_operator.certs import Pair, Usage, issue, new_authority, service_names

OPERATOR_NAMES = service_names("ralb-operator", "ralb")
GATEWAY_NAMES = service_names("ralb-gateway", "ralb")
SERVER_NAME = OPERATOR_NAMES[0]
YEAR = timedelta(days=365)


def utc_now() -> datetime:
    return datetime.now(UTC)


class TestAuthority:
    """An authority, and what it signs. ``ca`` is its certificate."""

    __test__ = False

    def __init__(self, title: str = "RALB test") -> None:
        self.pair = new_authority(title, [*OPERATOR_NAMES, *GATEWAY_NAMES], utc_now(), 10 * YEAR)
        self.ca = self.pair.cert

    def operator(self) -> Pair:
        return issue(self.pair, OPERATOR_NAMES, Usage.SERVER, utc_now(), YEAR)

    def gateway(self, *names: str) -> Pair:
        return issue(self.pair, names or GATEWAY_NAMES, Usage.CLIENT, utc_now(), YEAR)

    def expired_gateway(self) -> Pair:
        return issue(self.pair, GATEWAY_NAMES, Usage.CLIENT, utc_now() - timedelta(days=2), timedelta(days=1))

    def expired_operator(self) -> Pair:
        return issue(self.pair, OPERATOR_NAMES, Usage.SERVER, utc_now() - timedelta(days=2), timedelta(days=1))


def keeper_of(pair: Pair, ca: bytes) -> Keeper:
    """A keeper that has this."""
    keeper = Keeper("test")
    keeper.offer(pair.cert, pair.key, ca)
    assert keeper.current is not None, keeper.problem
    return keeper


def keeper_of_expired(pair: Pair, ca: bytes) -> Keeper:
    """A keeper that took one of the expired ones when it was still good."""
    keeper = Keeper("test")
    keeper.current = check(pair.cert, pair.key, ca, (utc_now() - timedelta(hours=36)).timestamp())
    return keeper


class MountedSecret:
    """A folder as the kubelet makes it: files are symlinks through ``..data``, which is swapped as a whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, pair: Pair, ca: bytes) -> None:
        self.put_files({CERT_FILE: pair.cert, KEY_FILE: pair.key, CA_FILE: ca})

    def put_files(self, files: dict[str, bytes]) -> None:
        version = self.folder / f"..{uuid.uuid4().hex}"
        version.mkdir()
        for name, data in files.items():
            (version / name).write_bytes(data)
        data = self.folder / "..data"
        old = os.readlink(data) if data.is_symlink() else None
        fresh = self.folder / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.rename(data)
        for name in files:
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        if old:
            for file in (self.folder / old).iterdir():
                file.unlink()
            (self.folder / old).rmdir()
