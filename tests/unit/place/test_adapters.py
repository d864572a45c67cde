from ralb.v1.snapshot_pb2 import Endpoint, Model, Pool
from ralb_extproc.place import PodSample, PodTable


def table(addresses=("10.0.0.0:80", "10.0.0.1:80", "10.0.0.2:80"), adapters=("legal", "math", "code")):
    pods = PodTable()
    follow(pods, addresses, adapters)
    return pods


def follow(pods, addresses, adapters):
    endpoints = [Endpoint(address=address) for address in addresses]
    pods.update([Pool(id="ns/p", endpoints=endpoints, model=Model(name="m", adapters=adapters))], 0.0)


def say(pods, number, at, *adapters, room=2):
    slot = pods.slot("ns/p", f"10.0.0.{number}:80")
    pods.observe(slot, PodSample(at, 0.0, 0.0, adapters=adapters, adapter_room=room), at)


def held(pods, name, view=None):
    mask = pods.adapters(view or pods.view("ns/p"), name)
    return None if mask is None else mask.tolist()


def test_who_holds_what():
    pods = table()
    assert held(pods, "legal") is None
    say(pods, 1, 1.0, "legal")
    assert held(pods, "legal") == [False, True, False]
    say(pods, 2, 1.0, "legal", "math")
    assert held(pods, "legal") == [False, True, True]
    assert held(pods, "math") == [False, False, True]


def test_an_adapter_is_held_until_others_need_its_room():
    pods = table()
    say(pods, 0, 1.0, "legal")
    say(pods, 0, 2.0)
    assert held(pods, "legal") == [True, False, False]
    say(pods, 0, 3.0, "math")
    assert held(pods, "legal") == [True, False, False]
    say(pods, 0, 4.0, "code")
    assert held(pods, "legal") is None
    assert held(pods, "math") == [True, False, False]


def test_without_a_number_only_those_with_requests_count():
    pods = table()
    say(pods, 0, 1.0, "legal", room=0)
    assert held(pods, "legal") == [True, False, False]
    say(pods, 0, 2.0, room=0)
    assert held(pods, "legal") is None


def test_names_that_the_pool_does_not_have_are_not_kept():
    pods = table()
    say(pods, 0, 1.0, "bogus", *(f"x{i}" for i in range(60)), room=64)
    assert held(pods, "bogus") is None
    assert pods._facts.residency._held == {}


def test_pods_that_go_and_come_and_narrowed_views():
    pods = table()
    say(pods, 1, 1.0, "legal")
    assert held(pods, "legal") == [False, True, False]
    follow(pods, ("10.0.0.1:80", "10.0.0.3:80"), ("legal",))
    assert held(pods, "legal") == [True, False]
    assert held(pods, "legal", pods.view("ns/p").narrowed({"10.0.0.1:80"})) == [True]
    assert held(pods, "legal", pods.view("ns/p").narrowed({"10.0.0.3:80"})) is None
    follow(pods, ("10.0.0.3:80",), ("legal",))
    assert held(pods, "legal") is None
    follow(pods, ("10.0.0.1:80", "10.0.0.3:80"), ("legal",))
    assert held(pods, "legal") is None, "another pod under an old address"


def test_a_restarted_pod_holds_nothing():
    pods = table()
    slot = pods.slot("ns/p", "10.0.0.0:80")
    pods.observe(slot, PodSample(1.0, 0, 0, prompt_tokens=9.0, adapters=("legal",), adapter_room=4), 1.0)
    pods.observe(slot, PodSample(2.0, 0, 0, prompt_tokens=0.0, adapters=("math",), adapter_room=4), 2.0)
    assert held(pods, "legal") is None
    assert held(pods, "math") == [True, False, False]
