"""Short ways to say pools, tiers, policies, snapshots and requests in tests."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.request import parse
from ralb_extproc.types import Api, Request, Turn, Understanding

CHAT = "/v1/chat/completions"
HEADERS: Mapping[str, str] = {":authority": "api.example.com", "content-type": "application/json"}


def pool(name: str, model: str = "", *, ready: bool = True, service: bool = False, **fields: Any) -> pb.Pool:
    """Pool ``ns/<name>`` serving ``model`` (its own name if not said); model fields and labels as keywords."""
    address = f"10.0.{len(name) % 250}.{sum(map(ord, name)) % 250 + 1}:8000"
    return pb.Pool(
        id=f"ns/{name}",
        cluster=f"pool/{name}",
        rewrite_cluster=f"pool/{name}/rewrite",
        model=pb.Model(name=model or name, **fields),
        engine=pb.ENGINE_GENERIC if service else pb.ENGINE_VLLM,
        metrics_path="" if service else "/metrics",
        endpoints=[pb.Endpoint(address=address, name=f"{name}-0")] if ready and not service else [],
    )


def tier(name: str, level: int, *pools: str | tuple[str, int, int], **fields: Any) -> pb.Tier:
    """Tier ``ns/<name>``; pools are names, or (name, weight, priority)."""
    members = [(each, 1, 0) if isinstance(each, str) else each for each in pools]
    return pb.Tier(
        id=f"ns/{name}",
        name=name,
        level=level,
        pools=[pb.TierPool(pool=f"ns/{each}", weight=weight, priority=priority) for each, weight, priority in members],
        **fields,
    )


def use(name: str, **fields: Any) -> pb.Action:
    """Use tier ``ns/<name>``."""
    return pb.Action(tier=f"ns/{name}", **fields)


def refuse(status: int = 403, message: str = "Not here.") -> pb.Action:
    return pb.Action(reject=pb.Reject(status=status, code="rejected_by_policy", message=message))


def rule(name: str, action: pb.Action, **when: Any) -> pb.Rule:
    return pb.Rule(name=name, when=pb.When(**when), action=action)


def policy(
    name: str, default: pb.Action, *rules: pb.Rule, models: Sequence[str] = ("auto",), **fields: Any
) -> pb.Policy:
    return pb.Policy(id=f"ns/{name}", name=name, models=models, rules=rules, default_action=default, **fields)


def snapshot(*parts: pb.Pool | pb.Tier | pb.Policy) -> pb.Snapshot:
    """All parts; pools and tiers sorted by id, policies as given."""
    return pb.Snapshot(
        version="v1",
        pools=sorted((part for part in parts if isinstance(part, pb.Pool)), key=lambda part: part.id),
        tiers=sorted((part for part in parts if isinstance(part, pb.Tier)), key=lambda part: part.id),
        policies=[part for part in parts if isinstance(part, pb.Policy)],
    )


def ask(model: str = "auto", **fields: Any) -> Request:
    """A request without its JSON."""
    values: dict[str, Any] = {
        "api": Api.CHAT,
        "stream": False,
        "turns": (Turn("user", "hello"),),
        "input_tokens": 10,
        "host": "api.example.com",
        "path": CHAT,
    }
    return Request(model=model, **(values | fields))


def understood(intent: str = "chat", complexity: float = 0.5, confidence: float = 0.9, **fields: Any) -> Understanding:
    return Understanding(intent, complexity, confidence, **fields)


def parsed(body: object, path: str = CHAT, headers: Mapping[str, str] = HEADERS) -> Request:
    """Parse a body given as Python data."""
    return parse(path, headers, orjson.dumps(body))


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    """A chat body; a message given as a string is the user's."""
    written = [{"role": "user", "content": each} if isinstance(each, str) else each for each in messages]
    return {"model": "auto", "messages": written, **fields}
