"""Whatever the order of publications, subscriptions, answers and reconnects: the client ends with what is served, but for what
it refuses, and is not sent again what it has refused.
"""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from support_ads import ModelClient, named, request

from ralb_operator.xds.delta import DeltaStream
from ralb_operator.xds.resources import CLUSTER, ENDPOINTS, LISTENER, ORDER, ROUTES
from ralb_operator.xds.subscription import Limits, Published

TYPES = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)
NAMES = ("a", "b", "c", "d")
CONTENTS = ("0", "1", "2", "bad", "worse")
BAD = (b"bad", b"worse")
LIMITS = Limits(response_resources=3)

contents = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(CONTENTS))
types = st.sampled_from(TYPES)


class Conversation(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.served = {}
        self.client = ModelClient(bad=BAD)
        self.client.on_single_refusal = self.refused_alone
        # (type, name) -> version refused alone on this stream, since nothing about it changed
        self.refused = {}

    @initialize()
    def connect(self):
        self.stream = DeltaStream(self.served, LIMITS)
        self.refused.clear()
        self.to_client = deque()
        self.to_server = deque(self.client.connect(*TYPES))

    @rule(type_url=types, contents=contents, prune=st.booleans())
    def publish(self, type_url, contents, prune):
        before = self.served.get(type_url, Published({})).resources
        published = Published(named(type_url, contents), prune)
        changed = [n for n in before.keys() | published.resources.keys() if before.get(n) != published.resources.get(n)]
        for name in changed:
            self.refused.pop((type_url, name), None)
        self.served[type_url] = published
        self.stream.publish(type_url, published, changed)

    @rule(type_url=st.sampled_from((ENDPOINTS, ROUTES)), name=st.sampled_from(NAMES))
    def ask_again(self, type_url, name):
        if name in self.client.names.get(type_url, ()):
            self.to_server.append(request(type_url, [name], node=""))

    @rule(type_url=st.sampled_from((ENDPOINTS, ROUTES)), name=st.sampled_from(NAMES))
    def leave_and_come_back(self, type_url, name):
        if name in self.client.names.get(type_url, ()):
            self.to_server.append(request(type_url, (), [name], node=""))
            self.to_server.append(request(type_url, [name], node=""))

    @rule(nonce=st.sampled_from(("", "0", "99", "x")), error=st.sampled_from((None, "stale")), type_url=types)
    def stale(self, nonce, error, type_url):
        self.to_server.append(request(type_url, nonce=nonce, error=error, node=""))

    @rule()
    def server_sends(self):
        response = self.stream.next_response()
        if response is not None:
            assert len(response.resources) + len(response.removed_resources) <= LIMITS.response_resources
            self.to_client.append(response)

    @rule()
    def client_reads(self):
        if self.to_client:
            self.to_server.extend(self.client.handle(self.to_client.popleft()))

    @rule()
    def server_reads(self):
        if self.to_server:
            message = self.to_server.popleft()
            for name in message.resource_names_subscribe:
                self.refused.pop((message.type_url, name), None)
            self.stream.receive(message, 0.0)

    @rule()
    def reconnect(self):
        self.connect()

    @rule()
    def talk(self):
        self.drain()

    def refused_alone(self, type_url, name, version):
        assert self.refused.get((type_url, name)) != version, f"{name} was sent again after it was refused"
        self.refused[type_url, name] = version

    def drain(self):
        for _ in range(2000):
            if not self.to_server and not self.to_client:
                self.server_sends()
                if not self.to_client:
                    return
            self.client_reads()
            self.server_reads()
        raise AssertionError("the conversation does not end")

    def teardown(self):
        for type_url in TYPES:
            published = self.served.get(type_url, Published({}))
            self.publish(type_url, {n: r.body.decode() for n, r in published.resources.items()}, True)
        self.drain()
        assert self.stream.settled(ORDER)
        refused = {(nack.type_url, nack.name): nack.version for nack in self.stream.nacks()}
        for type_url in TYPES:
            served = self.served[type_url].resources
            wanted = served.keys()
            if type_url in (ENDPOINTS, ROUTES):
                wanted &= self.client.names.get(type_url, set())
            held = self.client.held.get(type_url, {})
            assert held.keys() <= wanted, f"{type_url}: not removed"
            for name in wanted:
                if served[name].body in BAD:
                    assert refused.pop((type_url, name)) == served[name].version
                    assert held.get(name) not in BAD
                else:
                    assert held.get(name) == served[name].body
        assert not {key for key in refused if key[1]}, "refusals of what is not served"


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
