"""The store ends as the last list says, whatever came before it, in whatever order."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ralb_api.problems import ObjectKey, Problem
from ralb_operator.cluster.store import Entry, Store, order

KIND = "Pod"


def key(name: str) -> ObjectKey:
    return ObjectKey(KIND, "ns", name)


def entry(name: str, version: int | str, value: Any = 1, uid: str = "u", **more: Any) -> Entry:
    return Entry(key(name), value, uid=uid, version=str(version), **more)


def names(store: Store) -> set[str]:
    return {each.key.name for each in store.entries(KIND)}


def test_changes_that_matter_set_dirty() -> None:
    store = Store()
    assert store.put(entry("a", 1))
    assert store.dirty.is_set()
    store.dirty.clear()
    assert not store.put(entry("a", 2))
    assert not store.dirty.is_set()
    assert store.revision(KIND) == 1
    known = store.get(key("a"))
    assert known is not None
    assert known.version == "2"
    assert store.put(entry("a", 3, value=2))
    assert store.dirty.is_set()


def test_a_status_matters_to_nobody_but_is_kept() -> None:
    store = Store()
    store.put(entry("a", 1, generation=1))
    store.dirty.clear()
    store.put(entry("a", 2, generation=1, status={"x": 1}))
    assert not store.dirty.is_set()
    known = store.get(key("a"))
    assert known is not None
    assert known.status == {"x": 1}


def test_a_generation_and_a_problem_matter() -> None:
    store = Store()
    store.put(entry("a", 1, generation=1))
    assert store.put(entry("a", 2, generation=2))
    assert store.put(entry("a", 3, generation=2).__class__(key("a"), None, (Problem(None, "", "x", "y"),), "u", "4", 2))


def test_older_never_overwrites_newer() -> None:
    store = Store()
    store.put(entry("a", 10, value="new"))
    assert not store.put(entry("a", 9, value="old"))
    assert not store.drop(key("a"), version="9")
    assert store.get(key("a")) == entry("a", 10, value="new")


def test_versions_are_numbers_not_text() -> None:
    store = Store()
    store.put(entry("a", 9, value="old"))
    assert store.put(entry("a", 10, value="new"))


def test_versions_without_order_are_taken_as_they_come() -> None:
    store = Store()
    store.put(entry("a", "x", value=1))
    assert store.put(entry("a", "w", value=2))
    assert store.drop(key("a"), version="v")
    assert order("x") == order("") == order("-1") == order("\u0661") == -1


def test_a_deletion_of_the_former_does_not_hit_the_present() -> None:
    store = Store()
    store.put(entry("a", 10, uid="second"))
    assert not store.drop(key("a"), "first", "8")
    assert store.drop(key("a"), "second", "11")


def test_what_was_deleted_does_not_come_back() -> None:
    store = Store()
    store.put(entry("a", 5))
    store.drop(key("a"), version="7")
    assert not store.put(entry("a", 6))
    # A list that was begun before the deletion.
    store.replace(KIND, [entry("a", 5)], "6", since=5)
    assert names(store) == set()
    assert store.put(entry("a", 8))


def test_what_was_not_in_a_list_does_not_come_back() -> None:
    store = Store()
    store.put(entry("a", 5))
    store.replace(KIND, [], "9", since=5)
    assert not store.put(entry("a", 7))
    assert names(store) == set()
    assert store.put(entry("a", 10))


def test_what_came_after_a_list_survives_it() -> None:
    store = Store()
    store.put(entry("a", 5, value="old"))
    since = store.newest(KIND)
    store.put(entry("a", 12, value="new"))
    store.put(entry("b", 11))
    store.replace(KIND, [entry("a", 5, value="old")], "10", since=since)
    assert names(store) == {"a", "b"}
    assert store.get(key("a")) == entry("a", 12, value="new")


def test_storage_that_went_back_in_time_wins() -> None:
    store = Store()
    store.put(entry("a", 500))
    store.put(entry("b", 501))
    store.replace(KIND, [entry("a", 40)], "50", since=store.newest(KIND))
    assert names(store) == {"a"}
    assert store.put(entry("a", 51, value=2))
    assert store.put(entry("c", 52))


def test_equal_lists_change_nothing() -> None:
    store = Store()
    assert store.replace(KIND, [entry("a", 5)], "9")
    assert not store.replace(KIND, [entry("a", 6)], "12")
    assert store.replace(KIND, [], "13")


def test_scopes_do_not_touch_each_other() -> None:
    store = Store()
    store.replace(KIND, [entry("a", 5)], "9", scope="one")
    store.replace(KIND, [Entry(ObjectKey(KIND, "two", "b"), 1, version="3")], "4", scope="two")
    store.replace(KIND, [], "10", scope="one")
    assert names(store) == {"b"}


class TwoSources(RuleBasedStateMachine):
    """A cluster, a stream of events that loses some of them, and lists that arrive late: after a last list all is as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.truth: dict[str, tuple[int, str, int]] = {}
        self.store = Store()
        self.events: list[tuple[str, Entry]] = []
        self.lists: list[tuple[list[Entry], int, int]] = []
        # What was told last of each name: as of which version, and the object's version then (0 = there was none).
        self.told: dict[str, tuple[int, int]] = {}

    def learn(self, name: str, as_of: int, version: int) -> None:
        self.told[name] = max(self.told.get(name, (0, 0)), (as_of, version))

    def snapshot(self) -> list[Entry]:
        return [entry(name, version, value, uid) for name, (version, uid, value) in self.truth.items()]

    @rule(name=st.sampled_from("abc"), value=st.integers(0, 3))
    def write(self, name: str, value: int) -> None:
        self.version += 1
        uid = self.truth[name][1] if name in self.truth else f"u{self.version}"
        self.truth[name] = (self.version, uid, value)
        self.events.append(("PUT", entry(name, self.version, value, uid)))

    @precondition(lambda self: self.truth)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.truth)))
        self.version += 1
        _, uid, value = self.truth.pop(name)
        self.events.append(("DROP", entry(name, self.version, value, uid)))

    @precondition(lambda self: self.events)
    @rule(lost=st.booleans())
    def event(self, lost: bool) -> None:
        kind, told = self.events.pop(0)
        if lost:
            return
        version = int(told.version)
        self.learn(told.key.name, version, version if kind == "PUT" else 0)
        if kind == "PUT":
            self.store.put(told)
        else:
            self.store.drop(told.key, told.uid, told.version)

    @precondition(lambda self: len(self.lists) < 3)
    @rule()
    def ask_for_a_list(self) -> None:
        self.lists.append((self.snapshot(), self.version, self.store.newest(KIND)))

    @precondition(lambda self: self.lists)
    @rule()
    def a_list_arrives(self) -> None:
        # Lists of one kind are asked for one after the other.
        found, version, since = self.lists.pop()
        self.lists.clear()
        self.store.replace(KIND, found, str(version), since=since)
        there = {each.key.name: int(each.version) for each in found}
        for name in "abc":
            self.learn(name, version, there.get(name, 0))

    @invariant()
    def what_was_told_last_is_known(self) -> None:
        known = {each.key.name: int(each.version) for each in self.store.entries(KIND)}
        assert known == {name: version for name, (_, version) in self.told.items() if version}

    @invariant()
    def after_all_that_came_a_list_is_the_truth(self) -> None:
        copy = Store()
        copy._scopes = _copied(self.store)
        copy.replace(KIND, self.snapshot(), str(self.version), since=copy.newest(KIND))
        # Events that are still on their way tell of the past.
        for kind, told in self.events:
            if kind == "PUT":
                copy.put(told)
            else:
                copy.drop(told.key, told.uid, told.version)
        assert {each.key.name: (int(each.version), each.uid, each.value) for each in copy.entries(KIND)} == self.truth


def _copied(store: Store) -> Any:
    from copy import deepcopy

    return deepcopy(store._scopes)


TestTwoSources = TwoSources.TestCase
TestTwoSources.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_a_scope_that_is_left_leaves_nothing() -> None:
    """Secrets have a scope each, and their names come and go for as long as the operator runs."""
    store = Store()
    for i in range(100):
        store.put(Entry(ObjectKey("Secret", "ns", f"s{i}"), i, version="5"), f"ns/s{i}")
        store.dirty.clear()
        assert store.leave("Secret", f"ns/s{i}")
        assert store.dirty.is_set()
        assert not store.leave("Secret", f"ns/s{i}")
    assert store.size("Secret") == 0
    assert not store._scopes["Secret"]
