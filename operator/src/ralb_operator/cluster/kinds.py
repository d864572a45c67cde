"""The kinds the operator reads: where the API server has them, and what is kept of one object."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from sys import intern
from typing import Any, Final

from ralb_api import API_VERSION, GROUP
from ralb_api.objects import KINDS as MODELS
from ralb_api.objects import Object
from ralb_api.problems import ObjectKey, Problem, Severity
from ralb_operator.cluster.store import Entry
from ralb_operator.parse import (
    INVALID,
    Parsed,
    to_grant,
    to_inference_pool,
    to_object,
    to_pod,
    to_secret,
    to_service,
    to_slice,
)
from ralb_operator.view import Pod

_LOG = logging.getLogger(__name__)

VERSION: Final = API_VERSION.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind.

    Attributes:
        name: as in ``kind``.
        group, plural: its API.
        versions: the API versions that are understood, the best first.
        parse: one object's data -> the value.
        optional: its CRD may be missing.
        fields: a field selector.
        ours: one of RALB's own: statuses are kept, and what is invalid is reported.
    """

    name: str
    group: str
    plural: str
    versions: tuple[str, ...]
    parse: Callable[[Mapping[str, Any]], Parsed[Any]]
    optional: bool = False
    fields: str = ""
    ours: bool = False

    @property
    def title(self) -> str:
        """For messages: ``ModelPool``, ``pods``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def paths(self, namespace: str = "") -> tuple[str, ...]:
        """URL paths of the collection, one per version; of all namespaces without one."""
        inside = f"namespaces/{namespace}/{self.plural}" if namespace else self.plural
        root = f"/apis/{self.group}" if self.group else "/api"
        return tuple(f"{root}/{version}/{inside}" for version in self.versions)

    def entry(self, data: Mapping[str, Any]) -> Entry:
        """What is kept of an object from the API; never raises."""
        metadata = data.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        key = ObjectKey(self.name, intern(_text(metadata, "namespace")), _text(metadata, "name"))
        uid, version = _text(metadata, "uid"), _text(metadata, "resourceVersion")
        # Items of a list come without kind and apiVersion.
        whole = {**data, "kind": self.name, "apiVersion": f"{self.group}/{self.versions[0]}".lstrip("/")}
        try:
            parsed = self.parse(whole)
        except Exception as error:
            # A defect of ours that one odd object shows must not stop the rest from being read.
            _LOG.exception("%s cannot be read", key)
            problem = Problem(key, "", INVALID, f"cannot be read ({type(error).__name__})", "report this as a defect")
            parsed = Parsed(None, (problem,))
        if not self.ours:
            # Of others' objects only what keeps them from being used is of interest; of most, not even that.
            errors = tuple(problem for problem in parsed.problems if problem.severity is Severity.ERROR)
            return Entry(key, parsed.value, errors, uid, version)
        generation, status = metadata.get("generation"), data.get("status")
        return Entry(
            key,
            parsed.value,
            parsed.problems,
            uid,
            version,
            generation if isinstance(generation, int) else 0,
            status if isinstance(status, Mapping) else {},
        )


def identity(data: Mapping[str, Any]) -> int:
    """The generation: all that is kept where only the existence of objects is followed."""
    generation = data["metadata"].get("generation")
    return generation if isinstance(generation, int) else 0


def unchanged(known: Entry, data: Mapping[str, Any]) -> bool:
    """Whether an object of ours differs from the known state in its status at most, found out without parsing it."""
    metadata = data.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(known.value, Object) or not known.generation:
        return False
    ours = known.value.metadata
    return (
        metadata.get("uid") == known.uid
        and metadata.get("generation") == known.generation
        and (metadata.get("labels") or {}) == ours.labels
        and (metadata.get("annotations") or {}) == ours.annotations
    )


def _text(metadata: Mapping[str, Any], name: str) -> str:
    value = metadata.get(name)
    return value if isinstance(value, str) else ""


def _pod(data: Mapping[str, Any]) -> Parsed[Pod]:
    parsed = to_pod(data)
    if (pod := parsed.value) is None:
        return parsed
    # Thousands of pods share few labels.
    labels = {intern(name): intern(value) for name, value in pod.labels.items()}
    return Parsed(replace(pod, namespace=intern(pod.namespace), labels=labels), parsed.problems)


OURS: Final = tuple(
    Kind(name, GROUP, model.plural, (VERSION,), partial(to_object, stored=True), ours=True)
    for name, model in MODELS.items()
)
# Pods that are through are of no use, and in clusters with batch jobs they are most of all pods.
POD: Final = Kind("Pod", "", "pods", ("v1",), _pod, fields="status.phase!=Succeeded,status.phase!=Failed")
SERVICE: Final = Kind("Service", "", "services", ("v1",), to_service)
SLICE: Final = Kind("EndpointSlice", "discovery.k8s.io", "endpointslices", ("v1",), to_slice)
INFERENCE_POOL: Final = Kind(
    "InferencePool", "inference.networking.k8s.io", "inferencepools", ("v1",), to_inference_pool, optional=True
)
GRANT: Final = Kind(
    "ReferenceGrant", "gateway.networking.k8s.io", "referencegrants", ("v1", "v1beta1"), to_grant, optional=True
)
SECRET: Final = Kind("Secret", "", "secrets", ("v1",), to_secret)

OTHERS: Final = (POD, SERVICE, SLICE, INFERENCE_POOL, GRANT)
