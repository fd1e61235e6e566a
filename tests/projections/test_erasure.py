"""Erasure: what every event loses, and what the states folded from the redacted events lack."""

import json
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.erasure import Cut, erased_key, find_cuts, redact
from projections.events import Event, RunCreated, RunErased, RunStatusChanged, RunTagged, new_event
from projections.history import replay, touches
from projections.lifecycle import Status
from projections.metadata import ABSENT, CannotApply, apply, evolve, value_at
from projections.operations import AppendItem, Delete, Increment, Operation, RemoveItem, Set, Update
from projections.paths import Path, parse_key
from projections.runs import evolve_run
from projections.values import equal
from tests.strategies import places, thorough

States = list[dict[str, Any]]


def recorded(*bodies: Any) -> list[Event]:
    """A run with these events behind its first one."""
    if not bodies or not isinstance(bodies[0], RunCreated):
        bodies = (RunCreated(task="t"), *bodies)
    return [
        Event(n, "r", n, new.type, new.data, "ann", 1, "{}", None, n, bytes(32))
        for n, new in enumerate(map(new_event, bodies), start=1)
    ]


def erased(events: Sequence[Event], path: Path) -> list[Event]:
    cuts = find_cuts(path, events)
    return [
        event._replace(data=redact(event.type, event.data, cuts[event.version]))
        if event.version in cuts
        else event
        for event in events
    ]


def states(events: Sequence[Event]) -> States:
    return [after for _, _, after in replay({}, events)]


def data(events: Sequence[Event]) -> list[Any]:
    return [json.loads(event.data) for event in events]


CASES: dict[str, tuple[list[Any], str, list[Any], Any]] = {
    "the key itself": (
        [Set(key="email", value="X"), Set(key="name", value="N")],
        "email",
        [{"key": "email", "erased": True}, {"key": "name", "value": "N"}],
        {"name": "N"},
    ),
    "inside what is set above it": (
        [Set(key="user", value={"email": "X", "name": "N"})],
        "$.user.email",
        [{"key": "user", "value": {"name": "N"}, "erased": True}],
        {"user": {"name": "N"}},
    ),
    "below it, with the names that lead there": (
        [Set(key="user", value={"email": {}}), Set(key="$.user.email.X", value="Y")],
        "$.user.email",
        [{"key": "user", "value": {}, "erased": True}, {"key": "$.user.email", "erased": True}],
        {"user": {}},
    ),
    "everything below": (
        [Set(key="user", value={"email": "X"}), Set(key="$.user.name", value="N"), Increment(key="n", value=1)],
        "user",
        [{"key": "user", "erased": True}, {"key": "user", "erased": True}, {"key": "n", "value": 1}],
        {"n": 1},
    ),
    "in the whole object": (
        [Update(value={"user": {"email": "X", "a": 1}, "b": 2}), Delete(key="b")],
        "$.user.email",
        [{"value": {"user": {"a": 1}, "b": 2}, "erased": True}, {"key": "b"}],
        {"user": {"a": 1}},
    ),
    "increments": (
        [Increment(key="n", value=5), Increment(key="n", value=-2), Increment(key="m", value=1)],
        "n",
        [{"key": "n", "erased": True}, {"key": "n", "erased": True}, {"key": "m", "value": 1}],
        {"m": 1},
    ),
    "a list and its items": (
        [
            AppendItem(key="l", value="X"),
            AppendItem(key="l", value="Y"),
            RemoveItem(key="l", value="X"),
            Delete(key="l"),
        ],
        "l",
        [{"key": "l", "erased": True}] * 3 + [{"key": "l"}],
        {},
    ),
    "one item of a list": (
        [AppendItem(key="l", value="A"), AppendItem(key="l", value="X"), AppendItem(key="l", value="B")],
        "$.l.1",
        [{"key": "l", "value": "A"}, {"key": "l", "value": None, "erased": True}, {"key": "l", "value": "B"}],
        {"l": ["A", None, "B"]},
    ),
    "one item of a list that is set whole": (
        [Set(key="l", value=[{"e": "X", "n": 1}, {"e": "Y", "n": 2}])],
        "$.l.0.e",
        [{"key": "l", "value": [{"n": 1}, {"e": "Y", "n": 2}], "erased": True}],
        {"l": [{"n": 1}, {"e": "Y", "n": 2}]},
    ),
    "an item set by its place": (
        [Set(key="l", value=[1]), Set(key="$.l.1", value="X"), AppendItem(key="l", value="B")],
        "$.l.1",
        [
            {"key": "l", "value": [1]},
            {"key": "$.l.1", "erased": True, "blank": True},
            {"key": "l", "value": "B"},
        ],
        {"l": [1, None, "B"]},
    ),
    "items that move to the place": (
        [
            AppendItem(key="l", value="A"),
            AppendItem(key="l", value="X"),
            RemoveItem(key="l", value="A"),
            AppendItem(key="l", value="B"),
        ],
        "$.l.0",
        [
            {"key": "l", "value": None, "erased": True},
            {"key": "l", "value": None, "erased": True},
            {"key": "l", "erased": True, "removed": [0]},
            {"key": "l", "value": "B"},
        ],
        {"l": [None, "B"]},
    ),
    "a value that was put into a list": (
        [Set(key="u", value={"e": "X"}), AppendItem(key="u", value="B"), RemoveItem(key="u", value={"e": "X"})],
        "$.u.e",
        [
            {"key": "u", "value": {}, "erased": True},
            {"key": "u", "value": "B"},
            {"key": "u", "erased": True, "removed": [0]},
        ],
        {"u": ["B"]},
    ),
    "a path that is spelled sloppily": (
        [Set(key="u", value={"e": 1}), Set(key="$..u..e.", value="X")],
        "$.u.e",
        [{"key": "u", "value": {}, "erased": True}, {"key": "$..u..e.", "erased": True}],
        {"u": {}},
    ),
    "an item that another erasure moved nothing of": (
        [Set(key="l", value=["A", "B", "X"]), RemoveItem(key="l", value="A")],
        "$.l.1",
        [
            {"key": "l", "value": ["A", None, None], "erased": True},
            {"key": "l", "erased": True, "removed": [0]},
        ],
        {"l": [None, None]},
    ),
    "a null, and false": (
        [Set(key="u", value={"e": None, "f": False}), Set(key="$.u.f", value=True)],
        "u",
        [{"key": "u", "erased": True}, {"key": "u", "erased": True}],
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_event_loses_what_stood_at_the_path_and_no_more(name: str) -> None:
    bodies, key, expected, last = CASES[name]
    redacted = erased(recorded(*bodies), parse_key(key))
    assert data(redacted)[1:] == expected
    assert states(redacted)[-1] == last


def test_the_first_metadata_loses_its_part_and_the_rest_of_the_event_stays() -> None:
    created = RunCreated(task="t", payload={"email": "P"}, tags=("X",), metadata={"u": {"email": "X"}, "a": 1})
    (event,) = erased(recorded(created), parse_key("$.u.email"))
    assert json.loads(event.data) == {
        **json.loads(new_event(created).data),
        "metadata": {"u": {}, "a": 1},
        "erased": True,
    }
    assert isinstance(event.body, RunCreated)
    assert event.body.metadata == {"u": {}, "a": 1}


def test_a_literal_key_is_not_the_path_that_it_looks_like() -> None:
    events = recorded(Update(value={"a.b": "literal", "a": {"b": "path"}, "$.a.b": "odd"}))
    assert states(erased(events, parse_key("a.b")))[-1] == {"a": {"b": "path"}, "$.a.b": "odd"}
    assert states(erased(events, parse_key("$.a.b")))[-1] == {"a.b": "literal", "a": {}, "$.a.b": "odd"}
    odd = Path(("$.a.b",), literal=True)
    assert states(erased(events, odd))[-1] == {"a.b": "literal", "a": {"b": "path"}}


def test_what_never_stood_there_costs_no_event_anything() -> None:
    steps = [RunStatusChanged(status=Status.EXECUTING), RunTagged(tags=("e",)), Delete(key="e")]
    events = recorded(Set(key="u", value={"f": "e"}), AppendItem(key="l", value={"e": 1}), *steps)
    assert find_cuts(parse_key("$.u.e"), events) == {}
    assert find_cuts(parse_key("e"), events) == {}
    assert find_cuts(parse_key("$.l.3"), events) == {}


def test_what_was_erased_already_is_not_erased_again_but_its_longer_key_may_be() -> None:
    once = erased(recorded(Set(key="u", value={}), Set(key="$.u.e", value="X")), parse_key("$.u.e"))
    assert find_cuts(parse_key("$.u.e"), once) == {}
    assert data(erased(once, parse_key("u")))[1:] == [{"key": "u", "erased": True}] * 2


def test_a_run_folded_from_redacted_events_counts_them_all() -> None:
    events = erased(recorded(Set(key="a", value="X"), Set(key="b", value=1)), parse_key("a"))
    note = RunErased(erasure=1, key="a", path=("a",), reason="asked", redacted=((2, "00" * 32),))
    new = new_event(note)
    events.append(Event(4, "r", 4, new.type, new.data, "dpo", 1, "{}", None, 9, bytes(32)))
    assert events[-1].body == note
    run = None
    for event in events:
        run = evolve_run(run, event)
    assert run is not None
    assert (run.version, run.snapshot.metadata, run.updated_at) == (4, {"b": 1}, 9)
    about = [
        event.version for event, old, new in replay({}, events) if touches(parse_key("a"), event.body, old, new)
    ]
    assert about == [2, 4]


def test_an_operation_that_now_meets_another_state_never_refuses() -> None:
    big = 1.7e308
    steps = [Increment(key="$.l.0", value=big)] * 2
    events = recorded(Set(key="l", value=[0, -big]), RemoveItem(key="l", value=0), *steps)
    assert states(events)[-1] == {"l": [big]}
    assert states(erased(events, parse_key("$.l.1")))[-1] == {"l": [None]}, "no path changes a null"
    assert evolve({"n": big}, Increment(key="n", value=big)) == {"n": big}


@pytest.mark.parametrize(
    ("key", "refused", "shortened"),
    [
        ("u", "u", None),
        ("u", "$.u", None),
        ("u", "$.u.x", "u"),
        ("$.u.e", "$.u", None),
        ("$.u.e", "$.u.e.x.*", "$.u.e"),
        ("$.u.e", "$.u.ex", None),
        ("a.b", "$.a.b", None),
    ],
)
def test_keys_below_the_path_are_cut_short(key: str, refused: str, shortened: str | None) -> None:
    assert erased_key(parse_key(key), refused) == shortened


# --- random histories in which every scalar is a text of its own ---

KEYS = ["a", "l", "$.a.b", "$.a.0", "$.l.0", "$.l.1", "$.l.0.a", "$.l.1.a", "$.l.0.0", "$.a.b.a", "$.l.2"]


@st.composite
def unique_histories(draw: st.DrawFn, *, moving: bool = True) -> list[Event]:
    """Runs in which no two scalars are equal; without *moving* no value ever changes its place."""
    numbers = count()
    shapes = st.recursive(
        st.just(...),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "l"]), inner, max_size=2)
        ),
        max_leaves=4,
    )

    def value(shape: Any) -> Any:
        match shape:
            case dict():
                return {name: value(member) for name, member in shape.items()}
            case list():
                return [value(item) for item in shape]
            case _:
                return f"<{next(numbers)}>"

    top = st.fixed_dictionaries({}, optional={"a": shapes, "l": st.lists(shapes, max_size=3)})
    bodies: list[Any] = [RunCreated(task="t", metadata=value(draw(top)))]
    state: dict[str, Any] = bodies[0].metadata
    for _ in range(draw(st.integers(1, 10))):
        key = draw(st.sampled_from(KEYS))
        kind = draw(st.sampled_from([Set, Set, AppendItem, AppendItem, RemoveItem, RemoveItem, Delete, Update]))
        operation: Operation
        if not moving:
            current = value_at(state, parse_key(key))
            if kind is RemoveItem or (kind is AppendItem and not (current is ABSENT or isinstance(current, list))):
                continue
        if kind is RemoveItem:
            lists = [
                names for names in places(state) if isinstance(value_at(state, Path(names, literal=False)), list)
            ]
            full = [names for names in lists if value_at(state, Path(names, literal=False))]
            if not full:
                continue
            names = draw(st.sampled_from(full))
            items = value_at(state, Path(names, literal=False))
            assert isinstance(items, list)
            operation = RemoveItem(key="$." + ".".join(names), value=draw(st.sampled_from(items)))
        elif kind is Delete:
            operation = Delete(key=draw(st.sampled_from(["a", "l"])))
        elif kind is Update:
            operation = Update(value=value(draw(top)))
        else:
            operation = kind(key=key, value=value(draw(shapes)))
        try:
            state = apply(state, operation)
        except CannotApply:
            continue
        bodies.append(operation)
    return recorded(*bodies)


def scalars(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for member in value.values():
                yield from scalars(member)
        case list():
            for item in value:
                yield from scalars(item)
        case str():
            yield value


def held_against_the_rules(events: list[Event], chance: st.DataObject, *, moving: bool) -> list[Event]:
    before = states(events)
    known = sorted({names for state in before for names in places(state)}) or [("a",)]
    path = Path(chance.draw(st.sampled_from(known)), literal=False)
    secrets = {text for state in before for text in scalars(value_at(state, path))}
    redacted = erased(events, path)
    stored = "".join(event.data for event in redacted)
    assert not [text for text in secrets if text in stored]
    for old, new in zip(before, states(redacted), strict=True):
        assert value_at(new, path) in (ABSENT, None)
        left, expected = sorted(scalars(new)), sorted(text for text in scalars(old) if text not in secrets)
        assert left == expected or (moving and set(left) <= set(expected))
    cuts = find_cuts(path, redacted)
    again = [redact(e.type, e.data, cuts[e.version]) if e.version in cuts else e.data for e in redacted]
    assert again == [event.data for event in redacted], "erasing twice is erasing once"
    return redacted


@thorough
@given(unique_histories(), st.data())
def test_what_ever_stood_at_the_path_is_nowhere_in_events_and_states(
    events: list[Event], chance: st.DataObject
) -> None:
    once = held_against_the_rules(events, chance, moving=True)
    held_against_the_rules(once, chance, moving=True)


@thorough
@given(unique_histories(moving=False), st.data())
def test_everything_else_is_where_it_was(events: list[Event], chance: st.DataObject) -> None:
    once = held_against_the_rules(events, chance, moving=False)
    held_against_the_rules(once, chance, moving=False)


@thorough
@given(unique_histories(), st.data())
def test_events_keep_their_values_where_the_path_never_was(events: list[Event], chance: st.DataObject) -> None:
    path = Path(chance.draw(st.sampled_from([("z",), ("a", "z"), ("l", "9")])), literal=False)
    for event, redacted in zip(events, erased(events, path), strict=True):
        if event.type != "metadata.removed":
            assert redacted.data == event.data
    for old, new in zip(states(events), states(erased(events, path)), strict=True):
        assert equal(old, new)


def test_a_cut_says_nothing_of_an_event_that_it_does_not_know() -> None:
    assert redact("metadata.set", '{"key":"a","value":{"b":1,"c":2}}', Cut(places={("b",): False})) == (
        '{"key":"a","value":{"c":2},"erased":true}'
    )
