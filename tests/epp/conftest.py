"""Which picker is under test: our own, started here, or any other by address.

    pytest tests/epp --picker 10.0.0.7:9002 --picker-tls --picker-endpoints 10.1.0.1:8000,10.1.0.2:8000

Tests without the fixture ``target`` are about our own, and are skipped for other pickers.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support_epp import Caller, Target, calling
from support_picker import ENDPOINTS, Own, own_picker


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("picker", "the endpoint picker under test")
    group.addoption("--picker", default="", help="host:port of a running picker; our own is started if not said")
    group.addoption("--picker-tls", action="store_true", help="it speaks TLS (nothing is verified)")
    group.addoption("--picker-health", default="", help="host:port of its health service, if not the same")
    group.addoption("--picker-endpoints", default="", help="ip:port,... it is known to pick from; at least two")


def _option(config: pytest.Config, name: str) -> str:
    # Unknown where the whole of tests/ is run: this file is read too late then to add options.
    return str(config.getoption(name, default="") or "")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not _option(config, "--picker"):
        return
    ours = pytest.mark.skip(reason="about our own picker")
    for item in items:
        if item.path.parent == Path(__file__).parent and "target" not in getattr(item, "fixturenames", ()):
            item.add_marker(ours)


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Own]:
    """Our own picker in this process, with all its parts."""
    async with own_picker(tmp_path) as running:
        yield running


@pytest.fixture
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Target]:
    """The picker under test."""
    address = _option(request.config, "--picker")
    if address:
        endpoints = tuple(filter(None, _option(request.config, "--picker-endpoints").split(",")))
        if len(endpoints) < 2:
            raise pytest.UsageError("--picker needs --picker-endpoints with at least two of its endpoints")
        tls = bool(request.config.getoption("--picker-tls", default=False))
        yield Target(address, tls, endpoints, _option(request.config, "--picker-health"))
        return
    async with own_picker(tmp_path, tls="self-signed") as running:
        yield Target(running.address, True, ENDPOINTS)


@pytest.fixture
async def caller(target: Target) -> AsyncIterator[Caller]:
    """A gateway's channel to the picker under test."""
    async with calling(target) as caller:
        yield caller


@pytest.fixture
async def own_caller(own: Own) -> AsyncIterator[Caller]:
    """The same to our own."""
    async with calling(Target(own.address, False, ENDPOINTS)) as caller:
        yield caller
