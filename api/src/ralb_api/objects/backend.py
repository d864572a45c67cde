"""Where a pool's replicas are: own pods, a Service, an InferencePool, or a provider outside the cluster.

Trap: ``engine`` and ``metricsPath`` are meant for replicas that are seen one by one; a service given by host has defaults
for them that mean nothing.
"""

from enum import StrEnum
from typing import Any, ClassVar

from pydantic import Field

from ralb_api.objects.common import (
    Constraint,
    DNSLabel,
    Host,
    LabelKey,
    LabelValue,
    ObjectName,
    Path,
    PathPrefix,
    Port,
    SecretKey,
    Spec,
    exactly_one,
)


class Engine(StrEnum):
    """Which metrics the servers speak."""

    VLLM = "vLLM"
    SGLANG = "SGLang"
    TENSORRT_LLM = "TensorRTLLM"
    GENERIC = "Generic"


class Selector(Spec):
    """Which pods belong to the pool."""

    match_labels: dict[LabelKey, LabelValue] = Field(
        min_length=1,
        max_length=16,
        description="matchLabels are labels a pod must all carry.",
    )


def _engine() -> Any:
    return Field(
        default=Engine.VLLM,
        description="engine says which metrics the replicas publish: vLLM, SGLang, TensorRTLLM (trtllm-serve, or Triton "
        "with that backend), or Generic for none (placement then goes by what the gateway itself has in flight). "
        "Defaults to vLLM.",
    )


def _metrics_path() -> Any:
    return Field(
        default="/metrics",
        description="metricsPath is where on the serving port the metrics are; trtllm-serve has them at "
        "/prometheus/metrics. Defaults to /metrics.",
    )


class KvEvents(Spec):
    """Where pods publish what their KV caches hold."""

    constraints: ClassVar = (
        Constraint(
            cel="!has(self.replayPort) || self.replayPort != self.port",
            breach=lambda events: f"both are {events.port}" if events.port == events.replay_port else None,
            message="port and replayPort must differ",
            hint="vLLM's defaults are 5557 and 5558",
            field="replayPort",
        ),
    )

    port: Port = Field(
        default=5557,
        description="port is where each pod publishes events, as set in vLLM's --kv-events-config. Defaults to 5557.",
    )
    replay_port: Port | None = Field(
        default=None,
        description="replayPort is where each pod gives missed events again (replay_endpoint in --kv-events-config), "
        "such as 5558. Unset means nowhere: after a gap what a pod's cache holds is not known until it has turned over.",
    )


class PodsBackend(Spec):
    """Pods in the pool's own namespace, balanced one by one."""

    selector: Selector = Field(description="selector chooses the pods, in the pool's own namespace.")
    port: Port = Field(default=8000, description="port is where the pods serve the model's API. Defaults to 8000.")
    engine: Engine = _engine()
    metrics_path: Path = _metrics_path()
    kv_events: KvEvents | None = Field(
        default=None,
        description="kvEvents says that the pods publish what their KV caches store and remove (vLLM, SGLang), so that "
        "prompts are not sent after a cache that has evicted them. kvEvents: {} means vLLM's default port. Unset means "
        "that they do not.",
    )


class ServiceBackend(Spec):
    """A Service whose endpoints are balanced one by one, or a name behind which something else balances."""

    constraints: ClassVar = (
        exactly_one("name", "host"),
        Constraint(
            cel="!has(self.__namespace__) || has(self.name)",
            breach=lambda service: "" if service.namespace is not None and service.name is None else None,
            message="namespace can only be set together with name",
            hint="remove namespace; a host name says itself where it is",
            field="namespace",
        ),
    )

    name: ObjectName | None = Field(
        default=None,
        description="name is a Service whose endpoints are balanced one by one, by their own state. Unset means that "
        "host is used.",
    )
    namespace: DNSLabel | None = Field(
        default=None,
        description="namespace is where the Service of that name is. Another namespace than the pool's needs a "
        "ReferenceGrant there. Defaults to the pool's namespace.",
    )
    host: Host | None = Field(
        default=None,
        description="host is a DNS name or IP address, such as chat.models.svc. Its replicas are not seen one by one, "
        "so they are not chosen by their state; prefer name or pods where you can. Unset means that name is used.",
    )
    port: Port = Field(description="port is the port of the Service or host.")
    engine: Engine = _engine()
    metrics_path: Path = _metrics_path()


class InferencePoolBackend(Spec):
    """An InferencePool of the Gateway API whose pods are balanced one by one."""

    name: ObjectName = Field(
        description="name is an InferencePool (inference.networking.k8s.io/v1); its selector and ports are used."
    )
    namespace: DNSLabel | None = Field(
        default=None,
        description="namespace is where the InferencePool is. Another namespace than the pool's needs a "
        "ReferenceGrant there. Defaults to the pool's namespace.",
    )
    engine: Engine = _engine()
    metrics_path: Path = _metrics_path()


class ProviderSchema(StrEnum):
    """Which API a provider speaks."""

    OPENAI = "OpenAI"
    ANTHROPIC = "Anthropic"


class TLSMode(StrEnum):
    """How the connection to a provider is secured."""

    VERIFY = "Verify"
    SKIP_VERIFY = "SkipVerify"
    DISABLED = "Disabled"


class CACertificateRef(Spec):
    """A CA certificate in a Secret of the pool's own namespace."""

    name: ObjectName = Field(description="name is a Secret in the pool's own namespace.")
    key: SecretKey = Field(
        default="ca.crt",
        description="key is where in the Secret the PEM certificates are. Defaults to ca.crt.",
    )


class ProviderTLS(Spec):
    """TLS towards a provider."""

    constraints: ClassVar = (
        Constraint(
            cel="!has(self.caCertificateRef) || self.mode == 'Verify'",
            breach=lambda tls: f"mode is {tls.mode}" if tls.ca_certificate_ref and tls.mode != "Verify" else None,
            message="caCertificateRef can only be set when mode is Verify",
            hint="set mode: Verify, or remove caCertificateRef",
            field="caCertificateRef",
        ),
        Constraint(
            cel="!has(self.hostname) || self.mode != 'Disabled'",
            breach=lambda tls: "" if tls.hostname is not None and tls.mode == "Disabled" else None,
            message="hostname can not be set when mode is Disabled",
            hint="set mode: Verify, or remove hostname",
            field="hostname",
        ),
    )

    mode: TLSMode = Field(
        default=TLSMode.VERIFY,
        description="mode is Verify (TLS, and the provider must prove its name), SkipVerify (TLS with anybody; for "
        "tests) or Disabled (no TLS). Defaults to Verify.",
    )
    hostname: Host | None = Field(
        default=None,
        description="hostname is the name sent as SNI and, with mode Verify, looked for in the certificate. Defaults "
        "to external.host.",
    )
    ca_certificate_ref: CACertificateRef | None = Field(
        default=None,
        alias="caCertificateRef",
        description="caCertificateRef is the Secret with the CAs that may have signed the provider's certificate. "
        "Unset means the CAs of the gateway's system.",
    )


class CredentialsRef(Spec):
    """An API key in a Secret."""

    name: ObjectName = Field(description="name is the Secret's name.")
    key: SecretKey = Field(
        default="apiKey",
        description="key is where in the Secret the API key is. Defaults to apiKey.",
    )
    namespace: DNSLabel | None = Field(
        default=None,
        description="namespace is where the Secret is. Another namespace than the pool's needs a ReferenceGrant "
        "there. Defaults to the pool's namespace.",
    )


class ExternalBackend(Spec):
    """A provider outside the cluster."""

    constraints: ClassVar = (
        Constraint(
            cel="!has(self.credentialsRef) || !has(self.tls) || self.tls.mode != 'Disabled'",
            breach=lambda e: "" if e.credentials_ref is not None and e.tls.mode == TLSMode.DISABLED else None,
            message="credentialsRef can not be set when tls.mode is Disabled",
            hint="keys never travel in clear: set tls.mode to Verify, or remove credentialsRef",
            field="credentialsRef",
        ),
    )

    host: Host = Field(description="host is the provider's DNS name or IP address, such as api.openai.com.")
    port: Port = Field(default=443, description="port is the provider's port. Defaults to 443.")
    api: ProviderSchema = Field(
        default=ProviderSchema.OPENAI,
        alias="schema",
        description="schema is the API the provider speaks, OpenAI or Anthropic. It also decides how the key is sent: "
        "as authorization: Bearer, or as x-api-key. Defaults to OpenAI.",
    )
    tls: ProviderTLS = Field(
        default_factory=ProviderTLS, description="tls says how the connection is secured. Verified TLS when absent."
    )
    credentials_ref: CredentialsRef | None = Field(
        default=None,
        description="credentialsRef is the Secret with the provider's API key. The gateway sends it; keys that "
        "clients send never reach the provider. Unset means that no key is sent.",
    )
    path_prefix: PathPrefix | None = Field(
        default=None,
        description="pathPrefix is put before the API's path, such as /openai for /openai/v1/chat/completions. Unset "
        "means nothing is put there.",
    )


class Backend(Spec):
    """Where the replicas are; exactly one."""

    constraints: ClassVar = (exactly_one("pods", "service", "inference_pool", "external"),)

    pods: PodsBackend | None = Field(
        default=None,
        description="pods balances over pods chosen by label, by their own state; the usual choice. Unset means that "
        "another backend is used.",
    )
    service: ServiceBackend | None = Field(
        default=None,
        description="service balances over the endpoints of a Service, or sends to a host that balances by itself. "
        "Unset means that another backend is used.",
    )
    inference_pool: InferencePoolBackend | None = Field(
        default=None,
        description="inferencePool balances over the pods of an existing InferencePool of the Gateway API. Unset "
        "means that another backend is used.",
    )
    external: ExternalBackend | None = Field(
        default=None,
        description="external sends to a provider outside the cluster, such as api.openai.com. Unset means that "
        "another backend is used.",
    )
