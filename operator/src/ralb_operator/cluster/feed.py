"""From a ListWatch into the store, for the kinds that are not RALB's own."""

from collections.abc import Callable

from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.kinds import Kind
from ralb_operator.cluster.listwatch import Item, ListWatch, Times
from ralb_operator.cluster.store import Entry, Store


def feed(
    client: ApiClient,
    store: Store,
    kind: Kind,
    namespace: str,
    on_state: Callable[[], None],
    *,
    scope: str | None = None,
    title: str = "",
    fields: str = "",
    times: Times | None = None,
) -> ListWatch[Entry]:
    """A ListWatch, not running yet, that keeps a kind in the store up to date.

    Objects that give neither a value nor an error, such as pods without an address, are not kept.

    Args:
        client: how to reach the server.
        store: where to keep them.
        kind: which.
        namespace: where; "" = everywhere.
        on_state: called when its state changes.
        scope: the part of the store that is its own; the namespace by default.
        title: for messages; made from kind and namespace by default.
        fields: field selector instead of the kind's own.
        times: how patient to be.
    """
    inside = namespace if scope is None else scope

    def kept(entry: Entry) -> bool:
        return entry.value is not None or bool(entry.problems)

    def replace(items: list[Item[Entry]], version: str) -> None:
        store.replace(kind.name, (item.value for item in items if kept(item.value)), version, inside)

    def change(event_type: str, item: Item[Entry]) -> None:
        entry = item.value
        if event_type == "DELETED" or not kept(entry):
            store.drop(entry.key, entry.uid, entry.version, inside)
        else:
            store.put(entry, inside)

    return ListWatch(
        client,
        kind.paths(namespace),
        name=title or kind.title + (f" in namespace {namespace}" if namespace else ""),
        transform=kind.entry,
        on_replace=replace,
        on_change=change,
        on_state=on_state,
        field_selector=fields or kind.fields,
        optional=kind.optional,
        times=times,
    )
