"""Events: the names and shapes that are on disk for ever, and how they are read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, ValidationError

from projections.events import Body, Event, NewEvent, RunCreated, RunStatusChanged, RunTagged, load_body, new_event
from projections.lifecycle import Status
from projections.operations import AppendItem, Delete, Increment, RemoveItem, Set, Update
from tests.javascript import exact
from tests.strategies import metadata_objects, parsed, small_values, texts, thorough

FULL = RunCreated(
    task="encode",
    parent="run_p",
    root="run_r",
    batch="batch_1",
    tags=("a", "é"),
    status=Status.EXECUTING,
    idempotency_key="k",
    payload={"x": [1e-7, None]},
    payload_type="application/json",
    metadata={"n": 123456789012345680000, "\x00": True},
)


@pytest.mark.parametrize(
    ("body", "event"),
    [
        pytest.param(
            RunCreated(task="t"),
            NewEvent(
                "run.created",
                '{"task":"t","parent":null,"root":null,"batch":null,"tags":[],"status":"QUEUED",'
                '"idempotencyKey":null,"payload":null,"payloadType":null,"metadata":{}}',
            ),
            id="created with a task only",
        ),
        pytest.param(
            FULL,
            NewEvent(
                "run.created",
                '{"task":"encode","parent":"run_p","root":"run_r","batch":"batch_1","tags":["a","é"],'
                '"status":"EXECUTING","idempotencyKey":"k","payload":{"x":[1e-7,null]},'
                '"payloadType":"application/json","metadata":{"n":123456789012345680000,"\\u0000":true}}',
            ),
            id="created with everything",
        ),
        pytest.param(
            RunStatusChanged(status=Status.WAITING),
            NewEvent("run.status_changed", '{"status":"WAITING"}'),
            id="status alone",
        ),
        pytest.param(
            RunStatusChanged(status=Status.COMPLETED, output={"a": None}),
            NewEvent("run.status_changed", '{"status":"COMPLETED","output":{"a":null}}'),
            id="status and output",
        ),
        pytest.param(
            RunStatusChanged(status=Status.FAILED, error={"message": "no"}, output=False),
            NewEvent("run.status_changed", '{"status":"FAILED","output":false,"error":{"message":"no"}}'),
            id="status, output and error",
        ),
        pytest.param(RunTagged(tags=("b", "a")), NewEvent("run.tagged", '{"tags":["b","a"]}'), id="tags"),
        pytest.param(
            Set(key="$.a", value=[1e21]), NewEvent("metadata.set", '{"key":"$.a","value":[1e+21]}'), id="set"
        ),
        pytest.param(Set(key="", value=None), NewEvent("metadata.set", '{"key":"","value":null}'), id="set null"),
        pytest.param(Delete(key="$.a"), NewEvent("metadata.deleted", '{"key":"$.a"}'), id="delete"),
        pytest.param(
            AppendItem(key="a", value=True), NewEvent("metadata.appended", '{"key":"a","value":true}'), id="append"
        ),
        pytest.param(
            RemoveItem(key="a", value="\u2028"),
            NewEvent("metadata.removed", '{"key":"a","value":"\u2028"}'),
            id="remove",
        ),
        pytest.param(
            Increment(key="a", value=-0.000001),
            NewEvent("metadata.incremented", '{"key":"a","value":-0.000001}'),
            id="increment",
        ),
        pytest.param(Update(value={"a": {}}), NewEvent("metadata.updated", '{"value":{"a":{}}}'), id="update"),
    ],
)
def test_event_has_the_name_and_shape_that_is_on_disk_for_ever(body: Body, event: NewEvent) -> None:
    assert new_event(body) == event
    read = load_body(event.type, event.data)
    assert type(read) is type(body)
    assert read == body
    assert exact(read.model_dump(mode="json")) == exact(body.model_dump(mode="json"))


def test_time_that_the_caller_named_is_in_the_envelope_and_not_in_the_data() -> None:
    (operation,) = parsed([{"type": "set", "key": "a", "value": 1, "occurredAt": "1970-01-01T00:00:01Z"}])
    assert new_event(operation) == NewEvent("metadata.set", '{"key":"a","value":1}', 1_000_000)


@thorough
@given(
    st.sampled_from([*Status]),
    small_values(),
    small_values(),
    st.lists(texts(), max_size=3),
    metadata_objects(),
)
def test_step_of_a_run_is_read_back_from_its_event(
    status: Status, output: JsonValue, error: JsonValue, tags: list[str], metadata: dict[str, JsonValue]
) -> None:
    bodies: list[Body] = [
        RunStatusChanged(status=status, output=output, error=error),
        RunTagged(tags=tuple(tags)),
        RunCreated(task="t", tags=tuple(tags), status=status, payload=output, metadata=metadata),
    ]
    for body in bodies:
        event = new_event(body)
        read = load_body(event.type, event.data)
        assert read == body
        assert exact(read.model_dump(mode="json")) == exact(body.model_dump(mode="json"))
        assert new_event(read) == event


@pytest.mark.parametrize("status", ["executing", "Executing", "EXECUTING"])
def test_status_of_a_step_is_read_in_any_case(status: str) -> None:
    assert RunStatusChanged.model_validate({"status": status}).status is Status.EXECUTING
    with pytest.raises(ValidationError, match="unknown status"):
        RunStatusChanged.model_validate({"status": "DONE"})


def test_body_of_a_recorded_event_is_read_from_its_data() -> None:
    event = Event(
        position=5,
        run_id="run_1",
        version=2,
        type="metadata.set",
        data='{"key":"a","value":[true]}',
        actor="ci",
        attempt=1,
        headers="{}",
        occurred_at=None,
        recorded_at=7,
        hash=b"\x00" * 32,
    )
    assert event.body == Set(key="a", value=[True])
    assert event.body is event.body
