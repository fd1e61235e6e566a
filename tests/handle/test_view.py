"""What a job reads of its own metadata is what the ledger has, whatever it reported."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from ledger import metadata, run
from ledger.errors import WriteRefused
from ledger.handle.metadata import Changes
from projections.errors import Refusal
from tests.handle.places import Place
from tests.javascript import exact
from tests.strategies import History, histories, hostile_histories

shared = settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def report(changes: Changes, operation: dict[str, Any]) -> None:
    match operation:
        case {"type": "update", "value": value}:
            changes.update(value)
        case {"type": "delete", "key": key}:
            changes.delete(key)
        case {"type": kind, "key": key, "value": value}:
            getattr(changes, kind)(key, value)


@given(history=histories(max_size=8))
@shared
def test_reading_shows_at_once_what_the_ledger_has_after_a_flush(place: Place, history: History) -> None:
    with run("t", metadata=history.metadata) as r:
        for index, operation in enumerate(history.wire):
            report(metadata, operation)
            if index % 3 == 0:
                assert isinstance(metadata.current(), dict)
        local = exact(metadata.current())
        metadata.flush()
        assert (
            local
            == exact(metadata.current())
            == exact(place.metadata(r.id))
            == exact(metadata.refresh().current())
        )
    assert local == exact(place.metadata(r.id))


@given(history=hostile_histories())
@shared
def test_reading_shows_what_the_ledger_has_also_after_refusals(place: Place, history: History) -> None:
    with run("t", metadata=history.metadata) as r:
        for operation in history.wire:
            try:
                report(metadata, operation)
            except Refusal:
                continue
        with suppress(WriteRefused):
            metadata.flush()
        assert exact(metadata.current()) == exact(place.metadata(r.id))


def test_a_refused_report_is_not_seen_after_it_was_refused(place: Place) -> None:
    with run("t", metadata={"a": 1}) as r:
        metadata.set("big", "x" * 5_000)
        with pytest.raises(WriteRefused):
            metadata.flush()
        assert metadata.current() == place.metadata(r.id) == {"a": 1}
        metadata.set("b", 2)
        assert metadata.current() == {"a": 1, "b": 2}
