"""Where the operator's TLS material comes from in a cluster: a mounted folder, a Secret, or certificates of its own making.

How it is served is in ``ralb_operator.tls``, when certificates are replaced in ``rotation``. Every replica reads the same Secret;
all may make what is missing at the start, later only the leader does.
"""

import argparse
import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ralb_api.tls import CA_FILE, CERT_FILE, KEY_FILE, Directory, Keeper
from ralb_operator.cluster.certificates import Certificates, CertificatesError, decoded, names_of, secret_name
from ralb_operator.cluster.client import ApiClient, ApiError
from ralb_operator.cluster.credentials import CredentialsError
from ralb_operator.cluster.listwatch import Item, ListWatch, Times
from ralb_operator.rotation import Lifetimes, Part
from ralb_operator.tls import ServerTls
from ralb_operator.view import Secret

_LOG = logging.getLogger(__name__)

# What anybody may have with a certificate of the authority.
ANY_CLIENT: Final = "any"
_CHECK_S: Final = 600.0
_FIRST_RETRY_S: Final = 1.0
_REPAIR_S: Final = 5.0


class Mode(StrEnum):
    """How material is had."""

    OFF = "off"
    DIRECTORY = "dir"
    SECRET = "secret"
    BOOTSTRAP = "bootstrap"


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """See ``add_arguments``.

    Attributes:
        mode, folder: ``--tls``.
        release: prefix of the names of all objects.
        cluster_domain: DNS domain of the cluster.
        clients: names of which a client's certificate must hold one; empty = those of the release's gateway.
        lifetimes: of what is made here.
    """

    mode: Mode = Mode.OFF
    folder: Path | None = None
    release: str = "ralb"
    cluster_domain: str = "cluster.local"
    clients: tuple[str, ...] = ()
    lifetimes: Lifetimes = field(default_factory=Lifetimes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags behind ``TlsOptions``."""
    group = parser.add_argument_group("trust", "mutual TLS with Envoys and processors; see docs/trust.md")
    group.add_argument(
        "--tls",
        default="off",
        metavar="off|dir:PATH|secret|bootstrap",
        help="material: none; tls.crt, tls.key and ca.crt in a folder; the Secret RELEASE-operator-tls; the same, but made "
        "and renewed by the operator itself (default %(default)s)",
    )
    group.add_argument(
        "--release", default="ralb", metavar="NAME", help="prefix of the names of all objects (default %(default)s)"
    )
    group.add_argument(
        "--cluster-domain", default="cluster.local", metavar="DOMAIN", help="of the cluster's DNS (default %(default)s)"
    )
    group.add_argument(
        "--tls-client",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a DNS name that may be in a client's certificate; may be repeated; '{ANY_CLIENT}' asks for none "
        f"(default: the names of the Service RELEASE-gateway)",
    )
    group.add_argument(
        "--certificate-days", type=float, default=90.0, metavar="DAYS", help="life of what bootstrap makes (default 90)"
    )


def options_of(args: argparse.Namespace) -> TlsOptions:
    """From parsed flags.

    Raises:
        ValueError: they make no sense; the message says which and what is allowed.
    """
    mode, _, path = args.tls.partition(":")
    if mode not in tuple(Mode) or bool(path) != (mode == Mode.DIRECTORY):
        raise ValueError(f"--tls must be off, dir:PATH, secret or bootstrap, not {args.tls!r}")
    if not 0 < args.certificate_days <= 825:
        raise ValueError(f"--certificate-days must be above 0 and at most 825, not {args.certificate_days:g}")
    life = timedelta(days=args.certificate_days)
    return TlsOptions(
        mode=Mode(mode),
        folder=Path(path) if path else None,
        release=args.release,
        cluster_domain=args.cluster_domain,
        clients=tuple(args.tls_client),
        lifetimes=Lifetimes(leaf=life, overlap=min(timedelta(hours=24), life / 7)),
    )


class OperatorTls:
    """The operator's material, kept up to date while ``run`` runs.

    Args:
        options: where from.
        namespace: the operator's own.
        interval: seconds between two looks at a folder.

    Attributes:
        server: what to serve with; None = in clear.
        certificates: what ``bootstrap`` keeps in order; None in other modes, and before ``run``.
    """

    def __init__(self, options: TlsOptions, namespace: str, interval: float = 5.0) -> None:
        self.server: ServerTls | None = None
        self.certificates: Certificates | None = None
        self._options = options
        self._namespace = namespace
        self._interval = interval
        self._names = names_of(options.release, namespace, options.cluster_domain)
        self._secret = secret_name(options.release, Part.OPERATOR)
        self._damaged = asyncio.Event()
        if options.mode is Mode.OFF:
            return
        source = str(options.folder) if options.folder else f"Secret {namespace}/{self._secret}"
        clients = options.clients or self._names.gateway
        self.server = ServerTls(Keeper(source), () if ANY_CLIENT in clients else clients)

    async def run(self, client: ApiClient, leads: Callable[[], bool], times: Times | None = None) -> None:
        """Follow the material for ever; with ``bootstrap``, keep the certificates in order while ``leads()``."""
        if self.server is None:
            await asyncio.Event().wait()
            return
        if self._options.folder is not None:
            await Directory(self._options.folder, self.server.keeper, self._interval).run()
            return
        async with asyncio.TaskGroup() as tasks:
            if self._options.mode is Mode.BOOTSTRAP:
                options = self._options
                self.certificates = Certificates(
                    client, options.release, self._namespace, self._names, options.lifetimes
                )
                tasks.create_task(self._keep_in_order(self.certificates, leads))
            tasks.create_task(self._follow(client, self.server.keeper, times).run())

    async def _keep_in_order(self, certificates: Certificates, leads: Callable[[], bool]) -> None:
        """At the start by all replicas: who comes up first must not wait for an election to be able to serve."""
        wait = _FIRST_RETRY_S
        told = ""
        first = True
        while True:
            self._damaged.clear()
            try:
                if first or leads():
                    await certificates.ensure()
                first = False
                wait, told = _CHECK_S, ""
            except (ApiError, CredentialsError, CertificatesError) as error:
                if str(error) != told:
                    told = str(error)
                    _LOG.error("certificates: %s", told)
                wait = min(wait * 2, 60.0) if wait < _CHECK_S else _FIRST_RETRY_S
            # Not sooner, even if damage is seen all the time.
            soonest = min(wait, _REPAIR_S)
            await asyncio.sleep(soonest)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._damaged.wait(), wait * random.uniform(1.0, 1.2) - soonest)

    def _follow(self, client: ApiClient, keeper: Keeper, times: Times | None) -> ListWatch[Secret]:
        missing = f"there is no Secret {self._secret} in namespace {self._namespace}"

        def use(items: list[Item[Secret]], _: str = "") -> None:
            if items:
                data = items[0].value.data
                keeper.offer(*(data.get(name, b"") for name in (CERT_FILE, KEY_FILE, CA_FILE)))
            else:
                keeper.fail(missing)
            if keeper.problem:
                self._damaged.set()

        follow = ListWatch(
            client,
            f"/api/v1/namespaces/{self._namespace}/secrets",
            name=f"Secret {self._secret}",
            transform=_secret,
            on_replace=use,
            on_change=lambda event, item: use([] if event == "DELETED" else [item]),
            on_state=lambda: keeper.fail(follow.message) if keeper.current is None and follow.message else None,
            field_selector=f"metadata.name={self._secret}",
            times=times,
        )
        return follow


def _secret(secret: Mapping[str, Any]) -> Secret:
    metadata = secret.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    return Secret(str(metadata.get("namespace") or ""), str(metadata.get("name") or ""), decoded(secret))
