"""How many requests a key may make: a bucket for each, that others' haste does not empty."""

from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.app import create_app
from api.rates import BURST_S, TOO_MANY, Rates
from ledger.ledger import Ledger
from tests.api.keys import Keyed
from tests.api.server import serving
from tests.api.service import Service, problem, service
from tests.strategies import thorough

NOW = 1_700_000_000


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def limited(api: Service, limit: int, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the service this limit and this clock."""
    monkeypatch.setattr("api.access.Rates", lambda rate: Rates(rate, clock))
    ledger: Ledger = api._ledger
    app = create_app(ledger, api._log, rate_limit=limit)
    api._runner.run(api._http.aclose())
    api._http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://127.0.0.1")


def test_every_answer_to_a_key_says_how_many_requests_are_left(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    limited(api, 1, clock, monkeypatch)
    key, other = Keyed(api), Keyed(api)
    clock.now += 0.25
    statuses = [201, 404, 400, 405, 404, 422]
    answers = [
        key.create("r"),
        key.get("/api/v1/runs/none/metadata"),
        key.get("/api/v1/runs?nonsense=1"),
        key.request("DELETE", "/api/v1/runs"),
        key.get("/nothing"),
        key.create("c", parentRunId="none"),
    ]
    assert [answer.status_code for answer in answers] == statuses
    for used, answer in enumerate(answers, start=1):
        assert answer.headers["x-ratelimit-limit"] == str(BURST_S)
        assert answer.headers["x-ratelimit-remaining"] == str(BURST_S - used)
        assert answer.headers["x-ratelimit-reset"] == str((NOW + 1) * 1_000)
    while used < BURST_S:
        assert key.get("/api/v1/runs").status_code == 200
        used += 1
    before = api.contents()
    refused = key.create("s")
    assert problem(refused, 429)["code"] == "rate-limited"
    assert api.contents() == before
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert refused.headers["x-ratelimit-reset"] == str((NOW + 1) * 1_000)
    assert other.get("/api/v1/runs").headers["x-ratelimit-remaining"] == str(BURST_S - 1)
    assert api.get("/healthz").status_code == 200
    clock.now += 0.75
    assert key.get("/api/v1/runs").headers["x-ratelimit-remaining"] == "0"
    assert key.get("/api/v1/runs").status_code == 429


def test_keys_of_two_environments_with_one_id_do_not_share_a_bucket() -> None:
    rates = Rates(1, Clock())
    assert rates.take((1, "same")) == rates.take((2, "same")) == BURST_S - 1


def test_what_shows_no_valid_key_is_not_counted(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(api, 1, Clock(), monkeypatch)
    key = Keyed(api)
    for _ in range(2 * BURST_S):
        answer = api.get("/api/v1/runs", {"Authorization": f"Bearer {key.text}x"})
        assert answer.status_code == 401
        assert "x-ratelimit-limit" not in answer.headers
    assert key.get("/api/v1/runs").headers["x-ratelimit-remaining"] == str(BURST_S - 1)


def test_an_open_ledger_counts_nothing(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(api, 1, Clock(), monkeypatch)
    for _ in range(2 * BURST_S):
        answer = api.get("/api/v1/runs")
        assert answer.status_code == 200
        assert "x-ratelimit-limit" not in answer.headers


def test_zero_turns_the_limit_off(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(api, 0, Clock(), monkeypatch)
    key = Keyed(api)
    for _ in range(2 * BURST_S):
        answer = key.get("/api/v1/runs")
        assert answer.status_code == 200
        assert "x-ratelimit-limit" not in answer.headers


@thorough
@given(
    limit=st.integers(1, 5),
    steps=st.lists(st.tuples(st.floats(-3, 15), st.integers(0, 30)), max_size=30),
)
def test_never_more_than_the_burst_and_then_the_rate(limit: int, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    rates = Rates(limit, clock)
    taken, forward = 0, 1.0
    for seconds, requests in steps:
        clock.now += seconds
        forward += max(0.0, seconds) + 1  # A step back and forth again may show the same second twice.
        remaining = [rates.take("key") for _ in range(requests)]
        admitted = [left for left in remaining if left != TOO_MANY]
        assert remaining[: len(admitted)] == admitted == sorted(admitted, reverse=True)
        if requests:
            (_, limited), (_, left), (_, reset_ms) = rates.headers(remaining[-1])
            assert (int(limited), int(left)) == (limit * BURST_S, max(0, remaining[-1]))
            assert 0 < int(reset_ms) / 1_000 - clock.now <= 1
        taken += len(admitted)
        assert taken <= limit * (BURST_S + forward)
    clock.now += 2 * BURST_S
    assert rates.take("key") == limit * BURST_S - 1


def test_a_clock_that_is_set_back_stops_nobody() -> None:
    clock = Clock()
    rates = Rates(1, clock)
    for _ in range(BURST_S):
        rates.take("key")
    assert rates.take("key") == TOO_MANY
    clock.now -= 3_600
    assert rates.take("key") == TOO_MANY
    clock.now += 1
    assert rates.take("key") == 0


def test_the_limit_of_the_settings_is_the_servers(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with service(path) as here:
        key = Keyed(here)
    with serving(path, RUN_LEDGER_RATE_LIMIT="7") as server, server.client() as http:
        assert http.get("/api/v1/runs", headers=key.headers).headers["x-ratelimit-limit"] == "70"
