from pathlib import Path

import pytest
from support_chart import Helm
from support_cluster_fixtures import require


@pytest.fixture(scope="session")
def helm(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    return Helm(require(pytestconfig, "helm"), Path(tmp_path_factory.mktemp("helm")))
