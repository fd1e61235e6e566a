"""A progress bar that reports, with the real tqdm."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import configure, run, runs
from ledger.integrations.tqdm import tqdm


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path) -> Iterator[None]:
    configure(f"sqlite+aiosqlite:///{tmp_path}/ledger.db", spool_dir=tmp_path / "spool")
    yield
    configure(None)


def reported(run_id: str) -> list[Any]:
    return [change.data for change in runs.history_sync(run_id) if change.type == "metadata.set"]


def places(run_id: str) -> list[tuple[Any, Any]]:
    return [(data["value"]["n"], data["value"]["total"]) for data in reported(run_id)]


@pytest.mark.parametrize("disable", [False, True])
def test_every_place_is_reported_at_the_bars_own_interval(
    disable: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    with run("t") as r:
        assert list(tqdm(range(5), report_interval_s=0, mininterval=0, disable=disable)) == [0, 1, 2, 3, 4]
    assert places(r.id) == [(n, 5) for n in range(6)]
    assert all(data["key"] == "progress" for data in reported(r.id))
    assert (capfd.readouterr().err == "") == disable
    rates = [data["value"]["rate"] for data in reported(r.id)]
    assert rates[0] is None
    assert all(rate > 0 for rate in rates[1:])


@pytest.mark.parametrize("disable", [False, True])
def test_between_two_reports_nothing_is_said(disable: bool) -> None:
    with run("t") as r:
        for _ in tqdm(range(1_000), report_interval_s=3_600, disable=disable):
            pass
    assert places(r.id) == [(0, 1_000), (1_000, 1_000)]


@pytest.mark.parametrize("disable", [False, True])
def test_a_bar_that_is_moved_by_hand(disable: bool) -> None:
    with (
        run("t", metadata={"import": {}}) as r,
        tqdm(total=10, key="$.import.progress", report_interval_s=0, disable=disable) as bar,
    ):
        bar.update(3)
        bar.update(4)
        bar.reset(total=20)
        bar.update(20)
    assert {data["key"] for data in reported(r.id)} == {"$.import.progress"}
    assert places(r.id) == [(0, 10), (3, 10), (7, 10), (0, 20), (20, 20)]


@pytest.mark.parametrize("disable", [False, True])
def test_a_bar_without_a_total_and_one_that_is_left_early(disable: bool) -> None:
    with run("t") as r:
        for number in tqdm(iter(range(10)), report_interval_s=3_600, disable=disable):
            if number == 4:
                break
        list(tqdm([], key="empty", disable=disable))
    assert reported(r.id)[-1] == {"key": "empty", "value": {"n": 0, "total": 0, "rate": None}}
    assert places(r.id)[0] == (0, None)


def test_a_bar_that_begins_further_on_has_the_rate_of_what_it_did() -> None:
    with run("t") as r, tqdm(total=1_000_000, initial=999_999, report_interval_s=0) as bar:
        bar.update(1)
    first, last = reported(r.id)
    assert first["value"] == {"n": 999_999, "total": 1_000_000, "rate": None}
    assert last["value"]["n"] == 1_000_000
    assert last["value"]["rate"] < 999_999


def test_outside_a_run_it_is_an_ordinary_bar() -> None:
    assert sum(tqdm(range(4), disable=True)) == 6
