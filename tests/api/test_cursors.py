"""Walking the list of runs as the SDK does: each step adds a cursor to the parameters it had."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.service import Service, problem, service


class Walker:
    """A page of the SDK: it keeps both cursors once it has turned round."""

    def __init__(self, api: Service, limit: int) -> None:
        self._api = api
        self._parameters = {"page[size]": str(limit)}
        self.step()

    def step(self, **cursor: str) -> None:
        self._parameters |= {f"page[{name}]": text for name, text in cursor.items()}
        answer = self._api.request("GET", "/api/v1/runs", params=self._parameters).json()
        self.ids = [run["id"] for run in answer["data"]]
        self.pagination = answer["pagination"]


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("nine") / "ledger.db") as api:
        for number in range(9):
            api.create(f"r{number}")
        yield api


@settings(max_examples=60, deadline=None)
@given(limit=st.integers(1, 4), steps=st.lists(st.booleans(), max_size=25))
def test_every_walk_sees_the_pages_that_lie_there(nine: Service, limit: int, steps: list[bool]) -> None:
    everything = [f"r{number}" for number in reversed(range(9))]
    walker = Walker(nine, limit)
    start, end = 0, limit
    for forward in steps:
        assert ("next" in walker.pagination, "previous" in walker.pagination) == (end < 9, start > 0)
        if forward and end < 9:
            start, end = end, min(9, end + limit)
            walker.step(after=walker.pagination["next"])
        elif not forward and start > 0:
            start, end = max(0, start - limit), start
            walker.step(before=walker.pagination["previous"])
        assert walker.ids == everything[start:end]


def test_cursors_are_run_ids_until_the_walk_turns_round(nine: Service) -> None:
    walker = Walker(nine, 3)
    assert walker.pagination == {"next": "r6"}
    walker.step(after="r6")
    assert walker.pagination == {"next": "r3", "previous": "r5"}
    walker.step(before="r5")
    assert walker.pagination == {"next": "r6~1"}


@pytest.mark.parametrize("cursor", ["r6~0", "r6~", "~1", "r6~1~x", "r6~-1", "r6~1234567890", "nobody~1", "nobody"])
def test_a_cursor_that_nobody_gave_is_refused(nine: Service, cursor: str) -> None:
    for name in ("after", "before"):
        answer = nine.request("GET", "/api/v1/runs", params={f"page[{name}]": cursor})
        assert problem(answer, 400)["code"] == "bad-cursor"
