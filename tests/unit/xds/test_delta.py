import pytest
from envoy.config.cluster.v3 import cluster_pb2
from support_ads import named, request

from ralb_operator.xds.delta import DeltaStream
from ralb_operator.xds.resources import CLUSTER, ENDPOINTS, LISTENER, ORDER, ROUTES, SECRET
from ralb_operator.xds.subscription import Limits, ProtocolError, Published


class Harness:
    """A server with one stream: ``serve`` publishes, ``ask`` sends a request, ``drain`` reads what may be sent."""

    def __init__(self, limits=None, **served):
        self.served = {type_url: Published(named(type_url, contents)) for type_url, contents in served.items()}
        self.stream = DeltaStream(self.served, limits)

    def serve(self, type_url, contents, prune=True):
        before = self.served.get(type_url, Published({})).resources
        published = Published(named(type_url, contents), prune)
        changed = [n for n in before.keys() | published.resources.keys() if before.get(n) != published.resources.get(n)]
        self.served[type_url] = published
        self.stream.publish(type_url, published, changed)

    def ask(self, type_url, *subscribe, **more):
        return self.stream.receive(request(type_url, subscribe, **more), 1000.0)

    def next(self):
        return self.stream.next_response()

    def exchange(self, error=None):
        """The next response as (type, {name: content}, [removed]), answered at once; None when there is none."""
        response = self.next()
        if response is None:
            return None
        self.ask(response.type_url, nonce=response.nonce, error=error)
        return contents_of(response)

    def version(self, type_url, name):
        return self.served[type_url].resources[name].version


def contents_of(response):
    return (
        response.type_url,
        {r.name: r.resource.value.decode() for r in response.resources},
        list(response.removed_resources),
    )


def served(contents, type_url=CLUSTER, **options):
    return Harness(**{type_url: contents}, **options)


class TestWildcard:
    def test_gets_everything_once_with_versions_and_type(self):
        h = served({"a": "1", "b": "2"})
        h.ask(CLUSTER)
        response = h.next()
        assert contents_of(response) == (CLUSTER, {"a": "1", "b": "2"}, [])
        assert {r.name: r.version for r in response.resources} == {n: h.version(CLUSTER, n) for n in "ab"}
        assert all(r.resource.type_url == CLUSTER for r in response.resources)
        assert not h.stream.settled(ORDER)
        h.ask(CLUSTER, nonce=response.nonce)
        assert h.next() is None
        assert h.stream.settled(ORDER)

    def test_of_nothing_is_answered_with_nothing(self):
        h = served({})
        h.ask(CLUSTER)
        assert h.exchange() == (CLUSTER, {}, [])
        assert h.next() is None

    def test_before_the_first_publication_is_not_answered(self):
        h = Harness()
        h.ask(CLUSTER, known={"a": "x"})
        assert h.next() is None
        assert h.stream.settled(ORDER)  # there is nothing to wait for
        h.serve(CLUSTER, {})
        assert h.exchange() == (CLUSTER, {}, ["a"])

    @pytest.mark.parametrize("type_url", [ENDPOINTS, ROUTES, SECRET])
    def test_empty_subscription_means_nothing_for_other_types(self, type_url):
        h = served({"a": "1"}, type_url)
        h.ask(type_url)
        assert h.next() is None

    @pytest.mark.parametrize("type_url", ORDER)
    def test_star_means_all_for_every_type(self, type_url):
        h = served({"a": "1"}, type_url)
        h.ask(type_url, "*")
        assert h.exchange() == (type_url, {"a": "1"}, [])

    def test_changes_and_removals_are_sent(self):
        h = served({"a": "1", "b": "1"})
        h.ask(CLUSTER)
        h.exchange()
        h.serve(CLUSTER, {"b": "2", "c": "1"})
        assert h.exchange() == (CLUSTER, {"b": "2", "c": "1"}, [])
        assert h.exchange() == (CLUSTER, {}, ["a"])
        assert h.next() is None

    def test_stays_after_a_named_subscription_and_ends_with_star(self):
        h = served({"a": "1"})
        h.ask(CLUSTER)
        h.exchange()
        h.ask(CLUSTER, "a")
        assert h.exchange() == (CLUSTER, {"a": "1"}, [])
        h.serve(CLUSTER, {"a": "1", "b": "1"})
        assert h.exchange() == (CLUSTER, {"b": "1"}, [])
        h.ask(CLUSTER, unsubscribe=["*"])
        h.serve(CLUSTER, {"a": "2", "b": "2"})
        assert h.exchange() == (CLUSTER, {"a": "2"}, [])
        assert h.next() is None

    def test_unsubscribing_a_name_under_it_is_answered(self):
        h = served({"a": "1"})
        h.ask(CLUSTER, "*", "a", "gone")
        assert h.exchange() == (CLUSTER, {"a": "1"}, ["gone"])
        h.ask(CLUSTER, unsubscribe=["a", "gone"])
        assert h.exchange() == (CLUSTER, {"a": "1"}, ["gone"])
        assert h.next() is None

    def test_asked_for_again_is_sent_again(self):
        h = served({"a": "1"})
        h.ask(CLUSTER, "*")
        h.exchange()
        h.ask(CLUSTER, "*")
        assert h.exchange() == (CLUSTER, {"a": "1"}, [])


class TestReconnect:
    def test_nothing_is_sent_to_a_client_that_has_it_all(self):
        h = served({"a": "1", "b": "1"})
        h.ask(CLUSTER, known={n: h.version(CLUSTER, n) for n in "ab"})
        assert h.next() is None
        assert h.stream.settled(ORDER)

    def test_only_the_difference_is_sent(self):
        h = served({"a": "1", "b": "1", "c": "1"})
        h.ask(CLUSTER, known={"a": h.version(CLUSTER, "a"), "b": "old", "gone": "x"})
        assert h.exchange() == (CLUSTER, {"b": "1", "c": "1"}, [])
        assert h.exchange() == (CLUSTER, {}, ["gone"])

    def test_named(self):
        h = served({"a": "1", "b": "1"}, ENDPOINTS)
        h.ask(ENDPOINTS, "a", "b", "gone", known={"a": h.version(ENDPOINTS, "a"), "gone": "x", "other": "y"})
        assert h.exchange() == (ENDPOINTS, {"b": "1"}, [])
        assert h.exchange() == (ENDPOINTS, {}, ["gone"])
        assert h.next() is None

    def test_initial_versions_count_only_in_the_first_request(self):
        h = served({"a": "1"}, ENDPOINTS)
        h.ask(ENDPOINTS, "b")
        h.exchange()
        h.ask(ENDPOINTS, "a", known={"a": h.version(ENDPOINTS, "a")})
        assert h.exchange() == (ENDPOINTS, {"a": "1"}, [])

    def test_what_an_earlier_server_left_stays_until_pruned(self):
        h = Harness()
        h.ask(CLUSTER, known={"old": "x"})
        h.serve(CLUSTER, {"new": "1"}, prune=False)
        assert h.exchange() == (CLUSTER, {"new": "1"}, [])
        assert h.next() is None
        assert h.stream.settled(ORDER)
        h.serve(CLUSTER, {"new": "1"}, prune=True)
        assert not h.stream.settled(ORDER)
        assert h.exchange() == (CLUSTER, {}, ["old"])


class TestNamed:
    def test_unknown_is_answered_as_removed_and_sent_when_it_appears(self):
        h = served({}, ENDPOINTS)
        h.ask(ENDPOINTS, "a")
        assert h.exchange() == (ENDPOINTS, {}, ["a"])
        assert h.next() is None
        h.serve(ENDPOINTS, {"a": "1", "b": "1"})
        assert h.exchange() == (ENDPOINTS, {"a": "1"}, [])
        assert h.next() is None

    def test_unknown_is_answered_even_when_removals_are_held(self):
        h = Harness()
        h.serve(ENDPOINTS, {}, prune=False)
        h.ask(ENDPOINTS, "a")
        assert h.exchange() == (ENDPOINTS, {}, ["a"])

    def test_subscribed_again_is_sent_again(self):
        h = served({"a": "1"}, ENDPOINTS)
        h.ask(ENDPOINTS, "a", "b")
        assert h.exchange() == (ENDPOINTS, {"a": "1"}, ["b"])
        h.ask(ENDPOINTS, "a", "b")
        assert h.exchange() == (ENDPOINTS, {"a": "1"}, ["b"])
        assert h.next() is None

    def test_subscribed_again_while_in_flight_is_sent_again(self):
        h = served({"a": "1"}, ENDPOINTS)
        h.ask(ENDPOINTS, "a")
        response = h.next()
        h.ask(ENDPOINTS, unsubscribe=["a"])
        h.ask(ENDPOINTS, "a")
        h.ask(ENDPOINTS, nonce=response.nonce)
        assert h.exchange() == (ENDPOINTS, {"a": "1"}, [])

    def test_unsubscribed_is_not_sent(self):
        h = served({"a": "1", "b": "1"}, ENDPOINTS)
        h.ask(ENDPOINTS, "a", "b")
        h.exchange()
        h.ask(ENDPOINTS, unsubscribe=["a", "never"])
        h.serve(ENDPOINTS, {"a": "2", "b": "2"})
        assert h.exchange() == (ENDPOINTS, {"b": "2"}, [])
        assert h.next() is None

    def test_unsubscribed_while_in_flight_is_forgotten(self):
        h = served({"a": "1"}, ENDPOINTS)
        h.ask(ENDPOINTS, "a")
        response = h.next()
        h.ask(ENDPOINTS, unsubscribe=["a"], nonce=response.nonce, error="no")
        assert h.stream.nacks() == []
        assert h.stream.subscriptions[ENDPOINTS].has == {}
        h.ask(ENDPOINTS, "a")
        assert h.exchange() == (ENDPOINTS, {"a": "1"}, [])


class TestFlight:
    def test_one_response_per_type_and_newest_only(self):
        h = served({"a": "1"})
        h.ask(CLUSTER)
        first = h.next()
        for content in "234":
            h.serve(CLUSTER, {"a": content})
            assert h.next() is None
        h.ask(CLUSTER, nonce=first.nonce)
        assert h.exchange() == (CLUSTER, {"a": "4"}, [])
        assert h.next() is None

    def test_back_to_what_is_in_flight_needs_nothing_more(self):
        h = served({"a": "1"})
        h.ask(CLUSTER)
        first = h.next()
        h.serve(CLUSTER, {"a": "2"})
        h.serve(CLUSTER, {"a": "1"})
        h.ask(CLUSTER, nonce=first.nonce)
        assert h.next() is None

    def test_types_do_not_wait_for_each_other_without_reason(self):
        h = Harness(**{CLUSTER: {"a": "1"}, ENDPOINTS: {"a": "1"}})
        h.ask(CLUSTER)
        h.ask(ENDPOINTS, "a")
        assert [h.next().type_url, h.next().type_url, h.next()] == [CLUSTER, ENDPOINTS, None]

    def test_stale_nonce_settles_nothing_but_its_subscriptions_count(self):
        h = served({"a": "1", "b": "1"}, ENDPOINTS)
        h.ask(ENDPOINTS, "a")
        response = h.next()
        h.ask(ENDPOINTS, "b", nonce="stale", error="old news")
        assert h.next() is None
        assert h.stream.nacks() == []
        h.ask(ENDPOINTS, nonce=response.nonce)
        assert h.exchange() == (ENDPOINTS, {"b": "1"}, [])

    def test_nonces_differ_over_types(self):
        h = Harness(**{CLUSTER: {"a": "1"}, ENDPOINTS: {"a": "1"}})
        h.ask(CLUSTER)
        h.ask(ENDPOINTS, "a")
        first, second = h.next(), h.next()
        assert first.nonce != second.nonce

    def test_a_response_holds_a_bounded_number(self):
        h = served({f"r{i:02}": "1" for i in range(25)}, limits=Limits(response_resources=10))
        h.ask(CLUSTER)
        assert [len(h.exchange()[1]) for _ in range(3)] == [10, 10, 5]
        assert h.next() is None

    def test_a_response_has_a_bounded_size_and_a_big_resource_goes_alone(self):
        h = served({"a": "x" * 400, "b": "x" * 400, "c": "x" * 5000, "d": "x"}, limits=Limits(response_bytes=1100))
        h.ask(CLUSTER)
        assert [sorted(h.exchange()[1]) for _ in range(3)] == [["a", "b"], ["c"], ["d"]]
        assert h.next() is None


class TestRefusal:
    def test_is_reported_and_not_sent_again_until_the_content_changes(self):
        h = served({"a": "bad"})
        h.ask(CLUSTER)
        response = h.next()
        (nack,) = h.ask(CLUSTER, nonce=response.nonce, error="no such thing")
        assert (nack.node, nack.type_url, nack.name) == ("envoy-1", CLUSTER, "a")
        assert (nack.version, nack.message) == (h.version(CLUSTER, "a"), "no such thing")
        assert (nack.nonce, nack.at) == (response.nonce, 1000.0)
        assert h.stream.nacks() == [nack]
        assert h.next() is None
        assert h.stream.settled(ORDER)
        h.serve(CLUSTER, {"a": "bad", "b": "1"})
        assert h.exchange() == (CLUSTER, {"b": "1"}, [])
        assert h.stream.nacks() == [nack]
        h.serve(CLUSTER, {"a": "good", "b": "1"})
        assert h.exchange() == (CLUSTER, {"a": "good"}, [])
        assert h.stream.nacks() == []

    def test_is_over_when_the_accepted_version_comes_back(self):
        h = served({"a": "1"})
        h.ask(CLUSTER)
        h.exchange()
        h.serve(CLUSTER, {"a": "bad"})
        h.exchange(error="no")
        assert len(h.stream.nacks()) == 1
        assert h.stream.subscriptions[CLUSTER].has == {"a": Harness(**{CLUSTER: {"a": "1"}}).version(CLUSTER, "a")}
        h.serve(CLUSTER, {"a": "1"})
        assert h.next() is None
        assert h.stream.nacks() == []

    def test_is_over_when_the_resource_goes(self):
        h = served({"a": "bad"})
        h.ask(CLUSTER)
        h.exchange(error="no")
        h.serve(CLUSTER, {})
        assert h.next() is None  # it never had it
        assert h.stream.nacks() == []

    def test_is_sent_again_when_asked_for_again(self):
        h = served({"a": "bad"}, ENDPOINTS)
        h.ask(ENDPOINTS, "a")
        h.exchange(error="no")
        h.ask(ENDPOINTS, "a")
        assert h.exchange() == (ENDPOINTS, {"a": "bad"}, [])
        assert h.stream.nacks() == []

    def test_newer_version_published_while_in_flight_is_sent(self):
        h = served({"a": "bad"})
        h.ask(CLUSTER)
        response = h.next()
        h.serve(CLUSTER, {"a": "good"})
        h.ask(CLUSTER, nonce=response.nonce, error="no")
        assert h.exchange() == (CLUSTER, {"a": "good"}, [])
        assert h.stream.nacks() == []

    def test_of_several_is_narrowed_down_by_the_names_in_the_message(self):
        h = served({name: name for name in ("apple", "pear", "plum", "quince")})
        h.ask(CLUSTER)
        h.exchange(error="Error adding/updating cluster(s) pear: bad thing")
        assert h.exchange() == (CLUSTER, {"apple": "apple", "plum": "plum", "quince": "quince"}, [])
        assert h.exchange(error="Error adding/updating cluster(s) pear: bad thing") == (CLUSTER, {"pear": "pear"}, [])
        assert h.next() is None
        assert [nack.name for nack in h.stream.nacks()] == ["pear"]

    @pytest.mark.parametrize(
        "culprits", [{"r00"}, {"r17"}, {"r31"}, {"r03", "r04", "r29"}, {f"r{i:02}" for i in range(32)}]
    )
    def test_of_several_is_narrowed_down_by_halves_without_names(self, culprits):
        names = [f"r{i:02}" for i in range(32)]
        h = served({name: name for name in names}, ENDPOINTS)
        h.ask(ENDPOINTS, *names)
        for _ in range(2 * len(culprits) * 6 + 1):
            response = h.next()
            if response is None:
                break
            bad = culprits & {r.name for r in response.resources}
            h.ask(ENDPOINTS, nonce=response.nonce, error="one of them is wrong" if bad else None)
        assert h.next() is None
        assert {nack.name for nack in h.stream.nacks()} == culprits
        has = h.stream.subscriptions[ENDPOINTS].has
        assert {name for name, version in has.items() if version} == set(names) - culprits

    def test_after_it_what_the_client_has_of_the_others_is_unknown(self):
        h = served({"a": "1", "b": "1"})
        h.ask(CLUSTER)
        h.exchange()
        h.serve(CLUSTER, {"a": "2", "b": "bad"})
        h.exchange(error="something is wrong")  # a may be at 2 now
        h.serve(CLUSTER, {"a": "1", "b": "1"})
        assert h.exchange() == (CLUSTER, {"a": "1"}, [])
        assert h.exchange() == (CLUSTER, {"b": "1"}, [])
        assert h.next() is None

    def test_what_may_have_been_taken_is_removed_explicitly(self):
        h = served({"a": "1", "b": "bad"})
        h.ask(CLUSTER)
        h.exchange(error="something is wrong")
        h.serve(CLUSTER, {})
        removed = [h.exchange()[2], h.exchange()[2]]
        assert removed == [["a"], ["b"]]
        assert h.next() is None

    def test_of_a_removal_is_not_repeated(self):
        h = served({"a": "1", "b": "1"})
        h.ask(CLUSTER)
        h.exchange()
        h.serve(CLUSTER, {})
        sent = 0
        while h.exchange(error="I keep them") is not None:
            sent += 1
            assert sent < 10
        assert [(nack.name, nack.version) for nack in h.stream.nacks()] == [("a", None), ("b", None)]
        h.serve(CLUSTER, {"a": "1"})
        assert h.exchange() == (CLUSTER, {"a": "1"}, [])  # what it has is not sure

    def test_of_an_empty_response_is_kept_until_the_next_answer(self):
        h = served({})
        h.ask(CLUSTER)
        h.exchange(error="what?")
        assert [(nack.name, nack.message) for nack in h.stream.nacks()] == [("", "what?")]
        assert h.next() is None
        h.serve(CLUSTER, {"a": "1"})
        h.exchange()
        assert h.stream.nacks() == []

    def test_long_messages_are_cut(self):
        h = served({"a": "1"}, limits=Limits(message_chars=10))
        h.ask(CLUSTER)
        h.exchange(error="x" * 100)
        assert h.stream.nacks()[0].message == "x" * 10


class TestOrder:
    def everything(self, version="1"):
        return {type_url: {"a": version} for type_url in ORDER}

    def subscribed(self, h):
        for type_url in ORDER:
            h.ask(type_url, "*")

    def test_listeners_and_routes_wait_for_what_they_may_refer_to(self):
        h = Harness(**self.everything())
        self.subscribed(h)
        used = [h.next() for _ in range(3)]
        assert [r.type_url for r in used] == [SECRET, CLUSTER, ENDPOINTS]
        for response in used:
            assert h.next() is None
            h.ask(response.type_url, nonce=response.nonce)
        assert [h.next().type_url, h.next().type_url, h.next()] == [LISTENER, ROUTES, None]

    def test_a_refused_cluster_does_not_block_routes(self):
        h = Harness(**{CLUSTER: {"a": "bad"}, ROUTES: {"r": "1"}})
        h.ask(CLUSTER)
        h.ask(ROUTES, "r")
        h.exchange(error="no")
        assert h.exchange() == (ROUTES, {"r": "1"}, [])

    def test_removals_come_last_in_opposite_order_one_type_at_a_time(self):
        h = Harness(**self.everything())
        self.subscribed(h)
        while h.exchange():
            pass
        for type_url in ORDER:
            h.serve(type_url, {"b": "1"})
        seen = []
        while (got := h.exchange()) is not None:
            seen.append((got[0], "add" if got[1] else "remove"))
        assert seen == [(t, "add") for t in ORDER] + [(t, "remove") for t in reversed(ORDER)]

    def test_nothing_is_removed_while_something_added_is_unanswered(self):
        h = Harness(**{CLUSTER: {"a": "1"}, ROUTES: {"r": "uses a"}})
        h.ask(CLUSTER)
        h.ask(ROUTES, "r")
        h.exchange()
        h.exchange()
        h.serve(CLUSTER, {"b": "1"})
        h.serve(ROUTES, {"r": "uses b"})
        cluster = h.next()
        assert contents_of(cluster) == (CLUSTER, {"b": "1"}, [])
        assert h.next() is None
        h.ask(CLUSTER, nonce=cluster.nonce)
        routes = h.next()
        assert contents_of(routes) == (ROUTES, {"r": "uses b"}, [])
        assert h.next() is None  # a is still in use
        h.ask(ROUTES, nonce=routes.nonce)
        assert h.exchange() == (CLUSTER, {}, ["a"])

    def test_held_removals_are_not_sent_and_not_waited_for(self):
        h = served({"a": "1"})
        h.ask(CLUSTER)
        h.exchange()
        h.serve(CLUSTER, {}, prune=False)
        assert h.next() is None
        assert h.stream.settled(ORDER)
        h.serve(CLUSTER, {})
        assert h.exchange() == (CLUSTER, {}, ["a"])

    def test_types_nobody_knows_are_not_answered_and_block_nothing(self):
        h = served({"a": "1"})
        h.ask("type.googleapis.com/envoy.service.runtime.v3.Runtime", "*", "rtds")
        h.ask(CLUSTER)
        assert h.exchange() == (CLUSTER, {"a": "1"}, [])
        h.serve(CLUSTER, {})
        assert h.exchange() == (CLUSTER, {}, ["a"])
        assert h.stream.settled(ORDER)


def cluster(name, endpoints="", eds=True, timeout=1):
    """Content of a cluster."""
    message = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS if eds else cluster_pb2.Cluster.STATIC)
    message.eds_cluster_config.service_name = endpoints
    message.connect_timeout.seconds = timeout
    return message.SerializeToString().decode()


class TestWarming:
    def started(self, clusters, endpoints):
        h = Harness(**{CLUSTER: clusters, ENDPOINTS: dict.fromkeys(endpoints, "1")})
        h.ask(CLUSTER)
        h.ask(ENDPOINTS, *endpoints)
        while h.exchange():
            pass
        return h

    def test_endpoints_of_a_changed_cluster_follow_it_at_once(self):
        h = self.started({"a": cluster("a"), "b": cluster("b")}, ["a", "b"])
        h.serve(CLUSTER, {"a": cluster("a", timeout=2), "b": cluster("b")})
        changed = h.next()
        assert [r.name for r in changed.resources] == ["a"]
        assert contents_of(h.next()) == (ENDPOINTS, {"a": "1"}, [])  # the cluster is answered only after this
        assert not h.stream.settled(ORDER)

    def test_and_under_the_name_it_subscribes_to_even_when_another_cluster_has_them(self):
        h = self.started({"a": cluster("a", "pods")}, ["pods"])
        h.serve(CLUSTER, {"a": cluster("a", "pods"), "a-rewrite": cluster("a-rewrite", "pods")})
        h.exchange()
        assert h.exchange() == (ENDPOINTS, {"pods": "1"}, [])
        assert h.next() is None

    def test_refused_ones_too_for_only_then_is_the_cluster_taken_into_use(self):
        h = self.started({"a": cluster("a")}, ["a"])
        h.serve(ENDPOINTS, {"a": "bad"})
        h.exchange(error="no")
        assert h.next() is None
        h.serve(CLUSTER, {"a": cluster("a", timeout=2)})
        h.exchange()
        assert h.exchange(error="no") == (ENDPOINTS, {"a": "bad"}, [])
        assert h.next() is None

    @pytest.mark.parametrize(
        "content",
        [cluster("a", eds=False, timeout=2), cluster("a", "unknown"), cluster("a", "other"), "\x08", "", "no message"],
    )
    def test_nothing_follows_other_clusters(self, content):
        h = self.started({"a": cluster("a")}, ["a"])
        h.serve(ENDPOINTS, {"a": "1", "other": "1"})  # not subscribed
        h.serve(CLUSTER, {"a": content})
        assert h.exchange()[1] == {"a": content}
        assert h.next() is None


class TestHostile:
    @pytest.mark.parametrize(
        ("bad", "says"),
        [
            ({"node": ""}, "node.id"),
            ({"node": "n" * 2000}, "node.id"),
            ({"type_url": ""}, "type_url"),
            ({"type_url": "t" * 2000}, "type_url"),
            ({"subscribe": [""]}, "1 to 1024"),
            ({"subscribe": ["n" * 2000]}, "1 to 1024"),
            ({"known": {"n" * 2000: "1"}}, "1 to 1024"),
            ({"subscribe": [str(i) for i in range(11)]}, "more than 10 names"),
            ({"known": {str(i): "1" for i in range(11)}}, "more than 10 names"),
        ],
    )
    def test_request_is_refused(self, bad, says):
        stream = DeltaStream({}, Limits(names=10))
        with pytest.raises(ProtocolError, match=says):
            stream.receive(request(**{"type_url": CLUSTER, **bad}), 0.0)

    def test_resource_locators_are_refused(self):
        message = request(CLUSTER)
        message.resource_locators_subscribe.add(name="xdstp://x/y")
        with pytest.raises(ProtocolError, match="xdstp"):
            DeltaStream({}).receive(message, 0.0)

    def test_names_are_bounded_over_requests(self):
        stream = DeltaStream({}, Limits(names=10))
        stream.receive(request(ENDPOINTS, [str(i) for i in range(10)]), 0.0)
        stream.receive(request(ENDPOINTS, ["x"], ["1"]), 0.0)
        with pytest.raises(ProtocolError, match="more than 10 names subscribed"):
            stream.receive(request(ENDPOINTS, ["y"]), 0.0)

    def test_types_are_bounded(self):
        stream = DeltaStream({}, Limits(types=2))
        stream.receive(request("a"), 0.0)
        stream.receive(request("b"), 0.0)
        with pytest.raises(ProtocolError, match="more than 2 resource types"):
            stream.receive(request("c"), 0.0)

    def test_node_is_that_of_the_first_request(self):
        stream = DeltaStream({})
        stream.receive(request(CLUSTER, node="one"), 0.0)
        stream.receive(request(CLUSTER, node=""), 0.0)
        stream.receive(request(CLUSTER, node="two"), 0.0)
        assert stream.node == "one"

    def test_what_is_known_of_gone_names_is_forgotten(self):
        h = served({})
        h.ask(CLUSTER)
        h.exchange()
        for i in range(50):
            h.serve(CLUSTER, {f"c{i}": "1"})
            while h.exchange():
                pass
        assert list(h.stream.subscriptions[CLUSTER].has) == ["c49"]
