"""Read models folded from a stretch of a run's events."""

from collections.abc import Iterable, Iterator

from projections.events import Event, Redacted, RunCreated, RunErased, StoredBody
from projections.metadata import Absent, blank, evolve, remove_places, value_at
from projections.operations import Delete, MetadataOperation, Update
from projections.paths import Path, literal, parse_key
from projections.values import JsonObject, equal


def replay(metadata: JsonObject, events: Iterable[Event]) -> Iterator[tuple[Event, JsonObject, JsonObject]]:
    """Each event with the metadata before and after it, beginning from *metadata*."""
    for event in events:
        after = metadata_after(metadata, event.body)
        yield event, metadata, after
        metadata = after


def metadata_after(metadata: JsonObject, body: StoredBody) -> JsonObject:
    """One step of the fold over all kinds of events; most steps of a run's life leave its metadata alone."""
    match body:
        case RunCreated():
            return body.metadata
        case MetadataOperation():
            return evolve(metadata, body)
        case Redacted(key=key, removed=removed):
            return blank(metadata, key) if body.blank else remove_places(metadata, key, removed)
        case _:
            return metadata


def touches(path: Path, body: StoredBody, before: JsonObject, after: JsonObject) -> bool:
    """
    Whether an event was about the value at *path*: a change to it, to what holds it, or to what it holds.

    An operation that names such a key counts even if the value stayed the same; what replaces the whole object
    counts only if it changed that value.
    """
    match body:
        case RunCreated() | Update():
            return not _same(value_at(before, path), value_at(after, path))
        case Delete(key=key):
            return path.overlaps(literal(key))
        case RunErased(path=names):
            return path.overlaps(Path(names, literal=False))
        case MetadataOperation() | Redacted():
            # A far list index fills the gap with nulls, which changes items that the key does not name.
            return path.overlaps(parse_key(body.key)) or not _same(value_at(before, path), value_at(after, path))
        case _:
            return False


def _same(left: object, right: object) -> bool:
    # States share what did not change, so most comparisons end here and none descends without need.
    if left is right or isinstance(left, Absent) or isinstance(right, Absent):
        return left is right
    return equal(left, right)  # type: ignore[arg-type]  # Both are JSON values once neither is absent.
