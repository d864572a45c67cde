"""What is put beside an ``Operator``: reporting to the cluster, metrics, and the admin port.

Here and not in ``app``, which knows nothing of them: it calls back after publications, and runs what it is given beside it.
"""

import asyncio
from dataclasses import dataclass

from ralb_api.admin import AdminServer
from ralb_operator.cluster.app import Operator
from ralb_operator.cluster.metrics import Metrics
from ralb_operator.cluster.reporter import Reporter, Settings


@dataclass(frozen=True, slots=True)
class Attached:
    """The parts; ``admin.port`` is known once the operator runs."""

    reporter: Reporter
    metrics: Metrics
    admin: AdminServer


def attach(
    operator: Operator,
    *,
    address: str = "127.0.0.1",
    port: int = 0,
    pod_uid: str = "",
    settings: Settings | None = None,
) -> Attached:
    """Have an operator report, and show itself at ``http://address:port``; to be called before it runs.

    Args:
        operator: which.
        address: to bind.
        port: 0 = any free one.
        pod_uid: of the operator's own pod; "" if unknown.
        settings: how to report; made from the operator's options by default.
    """
    options = operator.options
    reporter = Reporter(
        operator.client,
        operator.control,
        operator.store,
        settings or Settings(options.own_namespace, options.identity, pod_uid, namespaced=bool(options.namespaces)),
    )
    metrics = Metrics(operator, reporter)
    admin = AdminServer(metrics.page, lambda: "\n".join(operator.not_ready()), host=address, port=port)

    async def serve() -> None:
        try:
            await admin.start()
        except OSError as error:
            raise OSError(f"the admin port cannot be bound at {address}:{port}: {error.strerror or error}") from None
        try:
            await asyncio.Event().wait()
        finally:
            await admin.stop()

    operator.on_applied += [reporter.on_applied, metrics.on_applied]
    operator.companions += [reporter.run, serve]
    return Attached(reporter, metrics, admin)
