"""The React hooks: what a page shows while a run goes on."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.api.server import Server
from tests.sdk.node import Node
from tests.sdk.test_realtime import Job


@pytest.fixture
def node() -> Iterator[Node]:
    """A process of its own: what is loaded beside a document takes itself to be in a browser."""
    with closing(Node()) as made:
        yield made


@pytest.fixture
def job(server: Server) -> Iterator[Job]:
    with closing(Job(server)) as made:
        yield made


def test_a_page_shows_the_progress_of_a_run_as_it_changes(node: Node, server: Server, job: Job) -> None:
    job.create(metadata={"progress": 0})
    said = iter(node.begin("hooks.mjs", "showRun", url=server.url, token="any", run="r", until="COMPLETED 1"))
    seen = [next(said), next(said)]
    for progress in (0.25, 0.5, 1):
        job.write("r", {"type": "set", "key": "progress", "value": progress})
        seen.append(next(said))
    job.move("COMPLETED")
    assert [*seen, *said] == ["- -", "QUEUED 0", "QUEUED 0.25", "QUEUED 0.5", "QUEUED 1", "COMPLETED 1"]


def test_a_page_counts_runs_with_a_tag(node: Node, server: Server, job: Job) -> None:
    job.create("one", tags=["a"])
    said = iter(node.begin("hooks.mjs", "showTag", url=server.url, token="any", tag="a", until="2 of 2"))
    seen = [next(said), next(said)]
    job.create("two", tags=["a"])
    seen.append(next(said))
    for run in ("one", "two"):
        job.move("COMPLETED", run)
        seen.append(next(said))
    assert [*seen, *said] == ["0 of 0", "0 of 1", "0 of 2", "1 of 2", "2 of 2"]
