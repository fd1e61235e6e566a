"""The numbers of a chart, held against a look at every version."""

from hypothesis import given
from hypothesis import strategies as st

from projections.history import replay
from projections.metadata import value_at
from projections.numbers import NumberFold, as_number, numeric_paths
from projections.paths import key_of, literal, parse_key
from projections.values import JsonObject
from tests.projections.test_history import recorded
from tests.strategies import History, histories, metadata_objects, parsed, places, thorough

KEYS = ("a", "b", "$.a.b", "$.a.0")


@thorough
@given(histories(), st.sampled_from(KEYS))
def test_a_chart_shows_each_change_of_the_number_and_nothing_else(history: History, key: str) -> None:
    events = recorded([*history.operations])
    path = parse_key(key)
    fold = NumberFold(path)
    for event in events:
        fold.add(event)
    expected: list[tuple[int, float]] = []
    for event, _, after in replay({}, events):
        number = as_number(value_at(after, path))
        if number is not None and (not expected or expected[-1][1] != number):
            expected.append((event.version, number))
    assert [(one.version, one.value) for one in fold.changes(1_000)] == expected


@thorough
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=400), st.integers(9, 60))
def test_many_changes_are_thinned_but_for_the_ends_and_the_extremes(numbers: list[int], most: int) -> None:
    fold = NumberFold(literal("n"))
    for event in recorded([*parsed([{"type": "set", "key": "n", "value": number} for number in numbers])]):
        fold.add(event)
    whole, thinned = fold.changes(1_000), fold.changes(most)
    assert len(thinned) <= most + 4
    assert set(thinned) <= set(whole)
    assert thinned == sorted(thinned, key=lambda one: one.version)
    assert (thinned[0], thinned[-1]) == (whole[0], whole[-1])
    assert {min(one.value for one in thinned), max(one.value for one in thinned)} == {min(numbers), max(numbers)}


@thorough
@given(metadata_objects())
def test_every_key_that_is_offered_leads_to_a_number(metadata: JsonObject) -> None:
    for key in numeric_paths(metadata, 1_000):
        assert as_number(value_at(metadata, parse_key(key))) is not None


@thorough
@given(metadata_objects())
def test_a_key_leads_to_its_place_or_there_is_none(metadata: JsonObject) -> None:
    for names in places(metadata):
        key = key_of(names) if names else None
        if key is not None:
            assert parse_key(key).names == names


def test_places_that_no_key_names() -> None:
    for names in (
        ("a", "b.c"),
        ("$.a",),
        ("a", ""),
        ("a", "*"),
        ("__proto__",),
        ("a", "constructor"),
        ("a", "b\\"),
    ):
        assert key_of(names) is None
    assert [key_of(names) for names in (("a.b",), ("",), ("a", "0", "é"))] == ["a.b", "", "$.a.0.é"]
