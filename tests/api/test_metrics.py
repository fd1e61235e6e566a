"""Figures for Prometheus."""

import re
from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.api.server import serving
from tests.api.service import Service


def figures(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of the page, by its name and its labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counted(text: str, method: str, route: str, status: int) -> float:
    labels = (("method", method), ("route", route), ("status", str(status)))
    return figures(text).get(("run_ledger_requests_total", labels), 0)


METADATA = "/api/v1/runs/{run_id}/metadata"


def test_requests_are_counted_by_their_outcome_and_nothing_that_callers_choose_is_a_label(
    api: Service,
) -> None:
    before = api.get("/metrics").text
    api.post("/api/v1/runs", {"id": "secret-name", "task": "secret-task"})
    api.get("/api/v1/runs/secret-name/metadata")
    api.get("/api/v1/runs/another/metadata")
    api.get("/api/v1/runs/secret-name/metadata?version=x")
    answer = api.get("/metrics")
    after = answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    for status, more in ((200, 1), (404, 1), (400, 1)):
        assert counted(after, "GET", METADATA, status) - counted(before, "GET", METADATA, status) == more
    assert counted(after, "POST", "/api/v1/runs", 201) - counted(before, "POST", "/api/v1/runs", 201) == 1
    assert "secret" not in after
    assert figures(after)["run_ledger_log_position", (("environment", "dev"),)] == 1


def test_the_time_of_requests_is_kept_by_route(api: Service) -> None:
    name = "run_ledger_request_seconds_count", (("method", "GET"), ("route", METADATA))
    before = figures(api.get("/metrics").text)[name]
    api.get("/api/v1/runs/nobody/metadata")
    assert figures(api.get("/metrics").text)[name] == before + 1


def test_several_processes_answer_for_all_of_them(tmp_path: Path) -> None:
    with serving(tmp_path / "ledger.db", "--workers", "2") as server:
        for _ in range(40):  # Each on a connection of its own, which either process may take.
            assert httpx2.get(f"{server.url}/healthz").status_code == 200
        pages = [httpx2.get(f"{server.url}/metrics").text for _ in range(6)]
        assert [counted(page, "GET", "/healthz", 200) for page in pages] == [40] * 6
        assert not re.search(r"pid=", pages[0])
