from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support_fake_api import FakeApi, running_fake_api

from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.credentials import CredentialsSource


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with running_fake_api() as running:
        yield running


@pytest.fixture
async def client(api: FakeApi, tmp_path: Path) -> AsyncIterator[ApiClient]:
    async with ApiClient(CredentialsSource(api.kubeconfig(tmp_path))) as made:
        yield made
