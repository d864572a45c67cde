"""Objects of the Gateway API family: InferencePools, and the ReferenceGrants that allow references across namespaces."""

from collections.abc import Mapping
from typing import Any

from ralb_operator.parse.common import Fields, Parsed
from ralb_operator.view import Grant, InferencePool

# What their CRDs accept.
_MAX_TARGET_PORTS = 8
_MAX_GRANTED = 16


def to_inference_pool(data: Mapping[str, Any], file: str = "") -> Parsed[InferencePool]:
    """An ``inference.networking.k8s.io/v1`` InferencePool."""
    fields = Fields.of(data)
    namespace, name = fields.identity("pool")
    spec = fields.mapping(data, "spec")
    selector = fields.mapping(spec, "selector", "spec.")
    labels = fields.texts(selector, "matchLabels", "spec.selector.")
    ports = [
        fields.number(port, "number", f"{path}.number")
        for path, port in fields.items(spec, "targetPorts", "spec.", _MAX_TARGET_PORTS)
    ]
    # An empty selector would take every pod of the namespace.
    if not labels and not fields.findings:
        fields.wrong("spec.selector.matchLabels", "required field is missing", "name labels that the pods carry")
    if not ports and not fields.findings:
        fields.wrong("spec.targetPorts", "required field is missing", "name the port the pods serve on")
    if fields.findings:
        return Parsed(None, fields.problems(file))
    return Parsed(InferencePool(namespace, name, labels, tuple(sorted(set(ports)))))


def to_grant(data: Mapping[str, Any], file: str = "") -> Parsed[Grant]:
    """A ``gateway.networking.k8s.io`` ReferenceGrant (``v1`` and ``v1beta1`` are alike)."""
    fields = Fields.of(data)
    namespace, name = fields.identity("grant")
    spec = fields.mapping(data, "spec")
    sources = [
        (
            fields.text(source, "group", f"{path}.group", default=""),
            fields.text(source, "kind", f"{path}.kind"),
            fields.text(source, "namespace", f"{path}.namespace"),
        )
        for path, source in fields.items(spec, "from", "spec.", _MAX_GRANTED)
    ]
    targets = [
        (
            fields.text(target, "group", f"{path}.group", default=""),
            fields.text(target, "kind", f"{path}.kind"),
            fields.text(target, "name", f"{path}.name", default=""),
        )
        for path, target in fields.items(spec, "to", "spec.", _MAX_GRANTED)
    ]
    # Half a grant is none: a part that could not be read might have narrowed it.
    if fields.findings:
        return Parsed(None, fields.problems(file))
    return Parsed(Grant(namespace, name, tuple(sources), tuple(targets)))
