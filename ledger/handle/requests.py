"""
What a job's reports become: requests as the ledger takes them over HTTP, each with its idempotency key.

A request is made once. Its body and key stay the same however often it is sent and whoever sends it, which is what
makes every report count exactly once.
"""

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from ledger.handle.encoding import encode
from projections import values
from projections.errors import BadPath, BadValue
from projections.paths import literal, parse_key
from projections.size import KEY_BYTES_MAX, OPERATIONS_MAX
from projections.times import Microseconds, format_time

BODY_BYTES_AIM = 1_048_576  # bytes of one request; half of what the ledger takes, because text may grow in UTF-8

Target = Literal["operations", "parentOperations", "rootOperations"]
TARGETS: tuple[Target, ...] = ("operations", "parentOperations", "rootOperations")

Kind = Literal["create", "change", "status"]


class Reported(NamedTuple):
    """
    One operation as a job reported it.

    Attributes:
        target: Which list of a request it belongs to: an index of `TARGETS`.
        type: `set`, `delete`, `append`, `remove`, `increment` or `update`.
        key: Its key, None for `update`.
        value: Compact JSON text, None for `delete`.
        occurred_at: When, by the job's clock.
    """

    target: int
    type: str
    key: str | None
    value: str | None
    occurred_at: Microseconds

    @property
    def weight(self) -> int:
        """About how many bytes it takes in a request."""
        return len(self.key or "") + len(self.value or "") + 80

    def text(self) -> str:
        """As it stands in a request."""
        key = "" if self.key is None else f',"key":{values.dump(self.key)}'
        value = "" if self.value is None else f',"value":{self.value}'
        return f'{{"type":"{self.type}"{key}{value},"occurredAt":"{format_time(self.occurred_at)}"}}'


@dataclass(frozen=True, slots=True)
class Request:
    """
    A request to the ledger.

    Attributes:
        kind: `create` a run, `change` its metadata, or give it a `status`.
        run_id: The run it is about.
        body: JSON text, the same as over HTTP.
        operations: How many operations it holds.
        key: Its idempotency key.
        sent_at: When it was first sent without an answer; None while it certainly was not carried out.
    """

    kind: Kind
    run_id: str
    body: str
    operations: int = 0
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    sent_at: Microseconds | None = None

    @property
    def method(self) -> str:
        """The HTTP method."""
        return "PUT" if self.kind == "change" else "POST"

    @property
    def path(self) -> str:
        """The HTTP path."""
        if self.kind == "create":
            return "/api/v1/runs"
        return f"{run_path(self.run_id)}/{'metadata' if self.kind == 'change' else 'status'}"

    def sent(self, at: Microseconds) -> "Request":
        """The same request, sent without an answer."""
        return self if self.sent_at is not None else replace(self, sent_at=at)

    def halves(self) -> tuple["Request", "Request"]:
        """Two requests, never sent, that say one after the other what this one says."""
        body: dict[str, Any] = json.loads(self.body)
        listed = [(target, operation) for target in TARGETS for operation in body.pop(target, ())]
        middle = len(listed) // 2
        first, second = (
            Request("change", self.run_id, _joined(body, half), len(half))
            for half in (listed[:middle], listed[middle:])
        )
        return first, second


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What the ledger answered to a request that it carried out.

    Attributes:
        run_id: The run.
        version: Its version.
        is_cached: The run existed before it was to be created.
        metadata: The run's metadata afterwards, None where the answer does not say it.
    """

    run_id: str
    version: int
    is_cached: bool = False
    metadata: values.JsonObject | None = None


def operation(target: int, kind: str, key: str | None, value: object = None) -> Reported:
    """
    One operation as a job asks for it now, checked.

    Args:
        target: Which list of a request it belongs to: an index of `TARGETS`.
        kind: `set`, `delete`, `append`, `remove`, `increment`, `decrement` or `update`.
        key: Its key, None for `update`.
        value: Its value; not looked at for `delete`.

    Raises:
        BadValue: JSON cannot say the value.
        BadPath: No operation may use the key.
        TypeError: The key is no text, or the value not of the kind that the operation needs.
    """
    if kind != "update":
        key = key if type(key) is str else _plain_key(key)
        _check_key(key, is_literal=kind == "delete")
    text = None if kind == "delete" else _encoded(kind, key, value)
    if kind == "decrement":
        kind, text = "increment", _negative(str(text))
    return Reported(target, kind, key, text, time.time_ns() // 1000)


def run_path(run_id: str, version: str = "v1") -> str:
    """The HTTP path of a run."""
    name = quote(run_id, safe="._:@+=-")
    if name in {".", ".."}:  # As they are, clients take them for steps in the path.
        name = name.replace(".", "%2E")
    return f"/api/{version}/runs/{name}"


def changes(
    run_id: str, attempt: int | None, actor: str | None, operations: Sequence[Reported], *, apart: bool
) -> list[Request]:
    """
    Requests that say what *operations* say, in their order.

    Args:
        run_id: The run.
        attempt: The attempt that reports, None for the run's current one.
        actor: Who reports.
        operations: In the order they were made.
        apart: Run, parent and root are three different runs, so that only the order within each list matters.
    """
    made = []
    for batch in _batches(operations, apart=apart):
        lists = [
            f'"{name}":[{",".join(one.text() for one in batch if one.target == target)}]'
            for target, name in enumerate(TARGETS)
            if any(one.target == target for one in batch)
        ]
        lists += [] if attempt is None else [f'"attempt":{attempt}']
        lists += [] if actor is None else [f'"actor":{values.dump(actor)}']
        made.append(Request("change", run_id, f"{{{','.join(lists)}}}", len(batch)))
    return made


def _batches(operations: Iterable[Reported], *, apart: bool) -> Iterable[list[Reported]]:
    """
    Operations that fit into one request each.

    A request is carried out list by list. Where two lists may be about the same run, an operation for an earlier
    list begins a new request, so that none overtakes another.
    """
    batch: list[Reported] = []
    weight = 0
    for operation in operations:
        full = len(batch) == OPERATIONS_MAX or weight + operation.weight > BODY_BYTES_AIM
        if batch and (full or (not apart and operation.target < batch[-1].target)):
            yield batch
            batch, weight = [], 0
        batch.append(operation)
        weight += operation.weight
    if batch:
        yield batch


def _joined(rest: dict[str, Any], listed: list[tuple[Target, Any]]) -> str:
    lists: dict[str, list[Any]] = {}
    for target, operation in listed:
        lists.setdefault(target, []).append(operation)
    return values.dump({**lists, **rest})


def _encoded(kind: str, key: str | None, value: object) -> str:
    try:
        text = encode(value)
    except BadValue as error:
        raise error.inside(f"{kind}({'' if key is None else repr(key)})") from None
    if kind in {"increment", "decrement"} and text[0] not in "-0123456789":
        raise TypeError(f"{kind}({key!r}) takes a number, not {type(value).__name__}")
    if kind == "update" and text[0] != "{":
        raise TypeError(f"update takes an object, not {type(value).__name__}")
    return text


@lru_cache(maxsize=4096)
def _check_key(key: str, *, is_literal: bool) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise BadValue(
            "", f"the key {key!a} holds an unpaired surrogate; half a character cannot be stored"
        ) from error
    if size > KEY_BYTES_MAX:
        raise BadPath(key[:40], f"the key is {size:,} bytes, at most {KEY_BYTES_MAX:,} are allowed")
    literal(key) if is_literal else parse_key(key)


def _negative(number: str) -> str:
    value = values.load(number)
    assert isinstance(value, int | float)
    return values.dump(-value)


def _plain_key(key: object) -> str:
    """The text of a key that is a kind of text, such as a member of a StrEnum."""
    if not isinstance(key, str):
        raise TypeError(f"a key is text, not {type(key).__name__}")
    return str.__str__(key)
