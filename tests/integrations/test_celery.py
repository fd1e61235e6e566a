"""Celery's own worker executes tasks, and the ledger says what happened to them."""

# mypy: disable-error-code="untyped-decorator"

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, chain, chord, group

from ledger import configure, metadata, run, runs
from ledger.errors import RunNotFound
from ledger.handle.records import RunRecord
from ledger.integrations.celery import install, uninstall
from projections.lifecycle import Status
from tests.api.server import ROOT, Server, environment, serving
from tests.integrations.jobs import connected
from tests.integrations.workers import Worker, eventually, working

Step = tuple[str, int, str | None]


class Bench:
    """
    A worker, the ledger that it reports to, and an app that publishes tasks for it.

    Attributes:
        app: Without the integration, as a publisher that knows nothing of the ledger.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.app = connected(Celery("publisher"), worker.folder)

    def renew(self) -> None:
        """
        Take another worker.

        A process that is killed while it holds a lock that it shares with the others of its pool, as may happen to
        one that somebody else kills, leaves a pool that waits for ever. That is billiard's, not what is tested here.
        """
        self.worker.kill()
        self.worker.start()
        self.worker.wait_until_ready()

    def send(self, name: str, *arguments: Any, app: Celery | None = None, **options: Any) -> str:
        return str((app or self.app).send_task(f"jobs.{name}", arguments, **options).id)

    def task(self, name: str, *arguments: Any) -> Any:
        return self.app.signature(f"jobs.{name}", arguments)

    def find(self, run_id: str) -> RunRecord | None:
        try:
            return runs.retrieve_sync(run_id)
        except RunNotFound:
            return None

    def wait(
        self, run_id: str, condition: Callable[[RunRecord], bool] = lambda found: found.is_finished
    ) -> RunRecord:
        """The run once something is true of it: that it is over."""

        def look() -> RunRecord | None:
            found = self.find(run_id)
            return found if found is not None and condition(found) else None

        record: RunRecord = eventually(look, f"run {run_id}", lambda: f"{self.find(run_id)}\n{self.worker.log()}")
        return record

    def run(self, name: str, *arguments: Any, **options: Any) -> RunRecord:
        return self.wait(self.send(name, *arguments, **options))

    def wait_until_it_waits(self, run_id: str) -> None:
        eventually(lambda: self.worker.has_mark(f"{run_id}-waits"), f"{run_id} waits", self.worker.log)

    def children(self, parent: str, count: int) -> list[RunRecord]:
        """The children of a run, once there are so many and all are over."""

        def look() -> list[RunRecord] | None:
            # A list does not say who the parent is.
            all_of_them = [runs.retrieve_sync(record.id) for record in runs.list_sync(limit=100)]
            found = [record for record in all_of_them if record.parent == parent and record.is_finished]
            return found if len(found) == count else None

        found: list[RunRecord] = eventually(look, f"{count} children of {parent}", self.worker.log)
        return found


def steps(run_id: str) -> list[Step]:
    """The statuses that a run had: each with its attempt and the message of its error."""
    found: list[Step] = []
    for change in runs.history_sync(run_id):
        if change.type in {"run.created", "run.status_changed"}:
            data: dict[str, Any] = change.data
            error = data.get("error")
            found.append((data["status"], change.attempt, error and error["message"]))
    return found


def number_of(child: RunRecord) -> int:
    number = child.metadata["number"]
    assert isinstance(number, int)
    return number


@pytest.fixture(scope="module", params=["server", "database"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp(request.param)
    database = f"sqlite+aiosqlite:///{folder / 'ledger.db'}"
    with ExitStack() as stack:
        if request.param == "server":
            target = stack.enter_context(serving(folder / "ledger.db")).url
            variables = {"RUN_LEDGER_URL": target}
        else:
            target = database
            variables = {"RUN_LEDGER_DATABASE_URL": target}
        configure(target, spool_dir=folder / "spool", flush_interval_s=0.05)
        stack.callback(configure, None)
        yield Bench(stack.enter_context(working(folder / "worker", gently=request.param == "server", **variables)))


@pytest.fixture
def dangerous(bench: Bench) -> Iterator[Bench]:
    """The same, for a test in which a process of the pool is killed by somebody else."""
    yield bench
    bench.renew()


# --- parents and children ---


def test_every_child_counts_once_although_two_crash_and_are_tried_again(bench: Bench) -> None:
    parent = bench.wait(
        bench.send("fan_out", 20), lambda found: found.metadata.get("done") == 20 and found.is_finished
    )
    children = bench.children(parent.id, 20)
    assert sorted(map(number_of, children)) == list(range(20))
    attempts = {child.id: 2 if number_of(child) in {3, 7} else 1 for child in children}
    assert {child.id: (child.status, child.attempt) for child in children} == {
        child: ("COMPLETED", attempt) for child, attempt in attempts.items()
    }
    increments = [change for change in runs.history_sync(parent.id) if change.type == "metadata.incremented"]
    assert len(increments) == 20
    assert {change.headers["sourceRun"]: change.headers["sourceAttempt"] for change in increments} == attempts
    by_number = {number_of(child): child.id for child in children}
    assert steps(by_number[3]) == [
        ("EXECUTING", 1, None),
        ("QUEUED", 1, "no answer from the warehouse"),
        ("EXECUTING", 2, None),
        ("COMPLETED", 2, None),
    ]
    assert steps(by_number[7]) == [
        ("EXECUTING", 1, None),
        ("CRASHED", 1, "attempt 1 ended without a word; attempt 2 begins"),
        ("EXECUTING", 2, None),
        ("COMPLETED", 2, None),
    ]
    assert steps(parent.id) == [("EXECUTING", 1, None), ("COMPLETED", 1, None)]


def test_each_step_of_a_chain_is_the_child_of_the_one_before(bench: Bench) -> None:
    last = chain(bench.task("step", 1), bench.task("step"), bench.task("step")).apply_async()
    ids = [last.parent.parent.id, last.parent.id, last.id]
    found = [bench.wait(run_id) for run_id in ids]
    assert [(record.parent, record.root) for record in found] == [
        (None, None),
        (ids[0], ids[0]),
        (ids[1], ids[0]),
    ]
    assert [record.metadata["seen"] for record in found] == [1, 2, 3]
    assert found[0].metadata["steps"] == 3 or bench.wait(ids[0], lambda first: first.metadata["steps"] == 3)


def test_the_parts_and_the_body_of_a_chord_are_children_of_the_task_that_made_it(bench: Bench) -> None:
    maker = bench.run("make_chord")
    children = bench.children(maker.id, 4)
    assert sorted(child.task for child in children) == ["jobs.step", "jobs.step", "jobs.step", "jobs.total"]
    (body,) = [child for child in children if child.task == "jobs.total"]
    assert body.id == maker.output
    assert body.output == 1 + 2 + 3
    assert {child.root for child in children} == {maker.id}


def test_a_chord_and_a_group_that_no_run_made_have_no_parent(bench: Bench) -> None:
    body = chord([bench.task("step", 1), bench.task("step", 2)])(bench.task("total"))
    members = group(bench.task("step", 3), bench.task("step", 4)).apply_async()
    found = [bench.wait(run_id) for run_id in (body.id, *(member.id for member in members))]
    assert [(record.status, record.parent) for record in found] == [("COMPLETED", None)] * 3


@pytest.fixture
def publisher(bench: Bench) -> Iterator[Celery]:
    """An app that has the integration too."""
    app = connected(Celery("publisher-with-runs"), bench.worker.folder)
    install(app)
    yield app
    uninstall(app)


def test_a_task_published_by_a_run_that_is_no_task_is_its_child(bench: Bench, publisher: Celery) -> None:
    with run("nightly") as nightly, run("part") as part:
        of_part = bench.send("step", 1, app=publisher)
        part.finish(Status.COMPLETED)
        of_nightly = bench.send("step", 1, app=publisher)
    after = bench.send("step", 1, app=publisher)
    families = [(record.parent, record.root) for record in map(bench.wait, (of_part, of_nightly, after))]
    assert families == [(part.id, nightly.id), (nightly.id, nightly.id), (None, None)]
    assert bench.wait(nightly.id, lambda found: found.metadata.get("steps") == 2)


def test_a_run_within_a_task_is_the_parent_of_what_it_publishes(bench: Bench) -> None:
    outer = bench.run("inner")
    (inner,) = bench.children(outer.id, 1)
    assert (inner.id, inner.task) == (outer.output, "inner-part")
    (step,) = bench.children(inner.id, 1)
    assert (step.task, step.root) == ("jobs.step", outer.id)


def test_a_task_that_is_left_out_is_no_run_and_hands_on_the_run_it_belongs_to(
    bench: Bench, publisher: Celery
) -> None:
    with run("nightly") as nightly:
        sent = publisher.send_task("jobs.left_out")
    step = bench.wait(sent.get(timeout=30))
    assert step.parent == nightly.id
    alone = bench.app.send_task("jobs.left_out")
    assert bench.wait(alone.get(timeout=30)).parent is None
    assert (bench.find(sent.id), bench.find(alone.id)) == (None, None)


def test_a_parent_that_only_celery_knows_is_no_reason_to_lose_a_run(bench: Bench) -> None:
    known = bench.run("step", 1)
    unknown = str(uuid4())
    child = bench.run("step", 1, parent_id=known.id, root_id=known.id)
    orphan = bench.run("step", 1, parent_id=unknown, root_id=unknown)
    assert (child.parent, child.root) == (known.id, known.id)
    assert (orphan.status, orphan.parent) == ("COMPLETED", None)


# --- attempts and outcomes ---


def test_each_retry_is_an_attempt(bench: Bench) -> None:
    # What an attempt writes once its retry is published may arrive after what later attempts, in another process, say.
    run_id = bench.send("flaky", 2)
    record = bench.wait(
        run_id, lambda found: found.is_finished and found.metadata.get("after") in ([1, 2], [2, 1])
    )
    assert (record.attempt, record.output, record.payload) == (3, 2, {"args": [2], "kwargs": {}})
    assert record.metadata["attempts"] == [1, 2, 3]
    assert steps(record.id) == [
        ("EXECUTING", 1, None),
        ("QUEUED", 1, "failure 1"),
        ("EXECUTING", 2, None),
        ("QUEUED", 2, "failure 2"),
        ("EXECUTING", 3, None),
        ("COMPLETED", 3, None),
    ]
    appended = [change for change in runs.history_sync(record.id) if change.type == "metadata.appended"]
    assert sorted((change.data["value"], change.attempt) for change in appended) == [
        (number, number) for number in (1, 1, 2, 2, 3)
    ]


def test_a_task_that_runs_out_of_retries_fails(bench: Bench) -> None:
    record = bench.run("flaky", 9)
    assert (record.status, record.attempt) == ("FAILED", 4)
    assert record.metadata["attempts"] == [1, 2, 3, 4]
    assert steps(record.id)[-1] == ("FAILED", 4, "failure 4")


def test_attempts_count_on_where_a_lost_process_and_a_retry_meet(bench: Bench) -> None:
    # The first attempt is over, as crashed, for a moment before the second one begins.
    record = bench.wait(bench.send("flaky_and_killed"), lambda found: found.status == Status.COMPLETED)
    assert record.metadata["attempts"] == [1, 2, 3]
    assert [(status, attempt) for status, attempt, _ in steps(record.id)] == [
        ("EXECUTING", 1),
        ("CRASHED", 1),
        ("EXECUTING", 2),
        ("QUEUED", 2),
        ("EXECUTING", 3),
        ("COMPLETED", 3),
    ]


def test_a_failure_ends_the_run_with_its_error(bench: Bench) -> None:
    record = bench.run("broken")
    assert (record.status, record.metadata, record.output) == ("FAILED", {"progress": 0.5}, None)
    assert isinstance(record.error, dict)
    assert (record.error["name"], record.error["message"]) == ("ValueError", "no such table: orders")
    assert "in broken" in str(record.error["stackTrace"])


def test_a_process_that_is_lost_for_good_crashes_the_run(dangerous: Bench) -> None:
    sent = [dangerous.send("killed"), dangerous.send("exits")]
    found = [dangerous.wait(run_id) for run_id in sent]
    assert [(record.status, record.attempt) for record in found] == [("CRASHED", 1), ("CRASHED", 1)]
    assert "SIGKILL" in str(found[0].error)
    assert found[1].metadata == {"progress": 0.5}


def test_a_retry_that_the_worker_asks_for_is_an_attempt_with_the_same_parent(
    bench: Bench, publisher: Celery
) -> None:
    with run("nightly") as nightly:
        record = bench.run("retried_when_lost", app=publisher)
    assert (record.parent, record.metadata) == (nightly.id, {"attempts": [1, 2]})
    assert [(status, attempt) for status, attempt, _ in steps(record.id)] == [
        ("EXECUTING", 1),
        ("QUEUED", 1),
        ("EXECUTING", 2),
        ("COMPLETED", 2),
    ]


def test_time_limits_end_the_run_as_timed_out(dangerous: Bench) -> None:
    hard = dangerous.send("endless", time_limit=1)
    soft = dangerous.send("endless", soft_time_limit=1)
    found = [dangerous.wait(run_id) for run_id in (hard, soft)]
    assert [(record.status, record.metadata) for record in found] == [("TIMED_OUT", {"status": "waits"})] * 2
    assert [record.error["name"] for record in found if isinstance(record.error, dict)] == [
        "TimeLimitExceeded",
        "SoftTimeLimitExceeded",
    ]


def test_a_task_revoked_before_it_began_is_a_canceled_run(bench: Bench, publisher: Celery) -> None:
    task_id = str(uuid4())
    assert bench.app.control.revoke(task_id, reply=True, timeout=30, limit=1)
    with run("nightly") as nightly:
        record = bench.run("step", 1, app=publisher, task_id=task_id)
    assert (record.status, record.parent, record.metadata) == ("CANCELED", nightly.id, {})
    assert steps(task_id) == [("QUEUED", 1, None), ("CANCELED", 1, "the task was revoked")]


def test_a_task_that_is_terminated_is_a_canceled_run(dangerous: Bench) -> None:
    task_id = dangerous.send("endless")
    dangerous.wait_until_it_waits(task_id)
    dangerous.app.control.revoke(task_id, terminate=True)
    record = dangerous.wait(task_id)
    assert record.status == "CANCELED"
    assert dangerous.wait(task_id, lambda found: found.metadata == {"status": "waits"})
    assert steps(task_id) == [("EXECUTING", 1, None), ("CANCELED", 1, "the task was terminated")]


def test_a_task_that_expired_is_an_expired_run(bench: Bench) -> None:
    record = bench.run("step", 1, expires=0.000001)
    assert (record.status, record.metadata) == ("EXPIRED", {})


def test_a_task_may_choose_to_be_ignored(bench: Bench) -> None:
    assert steps(bench.run("ignored").id) == [("EXECUTING", 1, None), ("COMPLETED", 1, None)]


def test_a_rejected_message_waits_where_it_comes_again_and_fails_where_it_does_not(bench: Bench) -> None:
    record = bench.run("rejected")
    assert record.metadata["attempts"] == [1, 2]
    assert [(status, attempt) for status, attempt, _ in steps(record.id)] == [
        ("EXECUTING", 1),
        ("QUEUED", 1),
        ("EXECUTING", 2),
        ("FAILED", 2),
    ]


def test_a_task_that_replaces_another_goes_on_as_its_run(bench: Bench) -> None:
    record = bench.wait(bench.send("replaced"), lambda found: found.is_finished and found.attempt == 2)
    assert (record.status, record.task, record.output) == ("COMPLETED", "jobs.replaced", 6)
    assert record.metadata == {"replaced": True, "seen": 5, "steps": 1}


def test_a_report_that_is_refused_does_no_harm_to_the_task(bench: Bench) -> None:
    record = bench.run("reports_nonsense")
    assert (record.status, record.metadata) == ("COMPLETED", {"kept": True})
    assert bench.worker.log().count(f"run {record.id}: not accepted") == 1


def test_ids_that_no_run_may_have_do_no_harm_to_the_task(bench: Bench) -> None:
    sent = bench.app.send_task("jobs.step", [1], task_id=f"a task ({uuid4()})")
    assert sent.get(timeout=30) == 2
    assert bench.run("step", 5).status == "COMPLETED"


def test_arguments_that_are_too_large_are_not_recorded(bench: Bench) -> None:
    record = bench.run("returns_objects", "x" * 600_000)
    assert (record.status, record.payload, record.output) == ("COMPLETED", None, None)


def test_the_worker_found_nothing_to_complain_about(bench: Bench) -> None:
    """The last of those that share a worker."""
    log = bench.worker.log()
    assert "Signal handler" not in log
    assert [
        line for line in log.splitlines() if "a task is not reported" in line and "ValueError" not in line
    ] == []
    assert not list((bench.worker.folder / "spool").glob("*.db")), "everything was delivered"


# --- other pools ---


@pytest.mark.parametrize(("pool", "results"), [("threads", None), ("solo", "cache+memory://")])
def test_other_pools_do_the_same(pool: str, results: str | None, tmp_path: Path) -> None:
    database = f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    variables: dict[str, Any] = {"RUN_LEDGER_DATABASE_URL": database} | (
        {} if results is None else {"JOBS_RESULTS": results}
    )
    configure(database, spool_dir=tmp_path / "spool")
    try:
        with working(tmp_path / "worker", pool=pool, count=1 if pool == "solo" else 4, **variables) as worker:
            bench = Bench(worker)
            parent, maker = bench.send("fan_out", 5, False), bench.send("make_chord")
            failed, flaky = bench.send("broken"), bench.send("flaky", 2)
            children = bench.children(parent, 5)
            assert {child.status for child in children} == {"COMPLETED"}
            assert bench.wait(parent, lambda found: found.metadata.get("done") == 5)
            assert [child.task for child in bench.children(maker, 4)].count("jobs.total") == 1
            assert bench.wait(failed).status == "FAILED"
            assert bench.wait(flaky).attempt == 3
            assert [attempt for status, attempt, _ in steps(flaky) if status == "EXECUTING"] == [1, 2, 3]
    finally:
        configure(None)


# --- when the ledger is away, or says no ---


def test_nothing_is_lost_and_nothing_counts_twice_while_the_server_is_away(tmp_path: Path) -> None:
    first = Server(tmp_path / "ledger.db")
    with working(tmp_path / "worker", count=3, RUN_LEDGER_URL=first.url) as worker:
        bench = Bench(worker)
        results = bench.app
        try:
            reporting = bench.send("slowly", 100, 0.02)
            bench.wait_until_it_waits(reporting)
        finally:
            first.kill()
            first.close()
        away = results.send_task("jobs.fan_out", [6, True])
        assert away.get(timeout=30) == 6
        flaky = results.send_task("jobs.flaky", [1])
        assert flaky.get(timeout=30) == 1
        lost = results.send_task("jobs.killed")
        assert "SIGKILL" in str(lost.get(timeout=30, propagate=False))
        eventually(lambda: "kept in" in worker.log(), "the worker notices", worker.log)
        with serving(tmp_path / "ledger.db", "--port", str(first.port)) as server:
            configure(server.url, spool_dir=tmp_path / "spool")
            try:
                record = bench.wait(reporting)
                assert (record.status, record.metadata) == ("COMPLETED", {"numbers": list(range(100))})
                assert [
                    c.data["value"] for c in runs.history_sync(reporting) if c.type == "metadata.appended"
                ] == list(range(100))
                parent = bench.wait(away.id, lambda found: found.metadata.get("done") == 6)
                children = bench.children(parent.id, 6)
                assert sorted(map(number_of, children)) == list(range(6))
                increments = [c for c in runs.history_sync(parent.id) if c.type == "metadata.incremented"]
                assert sorted(str(change.headers["sourceRun"]) for change in increments) == sorted(
                    child.id for child in children
                )
                assert steps(flaky.id) == [
                    ("EXECUTING", 1, None),
                    ("QUEUED", 1, "failure 1"),
                    ("EXECUTING", 2, None),
                    ("COMPLETED", 2, None),
                ]
                eventually(
                    lambda: not list((worker.folder / "spool").glob("*.db")), "the spool is empty", worker.log
                )
            finally:
                configure(None)


class _Refusing(BaseHTTPRequestHandler):
    """A ledger that accepts nothing."""

    def _refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"code": "invalid-body", "detail": "no room for it", "status": 422}).encode()
        self.send_response(422)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._refuse
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - As the base class has it.
        pass


def test_a_ledger_that_refuses_does_no_harm_to_the_tasks(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            with working(tmp_path / "worker", count=1, RUN_LEDGER_URL=url) as worker:
                app = Bench(worker).app
                assert app.send_task("jobs.step", [1]).get(timeout=30) == 2
                flaky = app.send_task("jobs.flaky", [1])
                assert flaky.get(timeout=30) == 1
                assert app.send_task("jobs.fan_out", [2, False]).get(timeout=30) == 2
                log = worker.log()
        finally:
            server.shutdown()
            thread.join()
    refused = [line for line in log.splitlines() if "not accepted: no room for it" in line]
    assert len([line for line in refused if flaky.id in line]) == 1
    assert "Signal handler" not in log
    assert "Traceback" not in log


# --- without a worker ---


def test_importing_the_ledger_does_not_load_celery() -> None:
    code = "import sys, ledger; ledger.run, ledger.metadata, ledger.task; sys.exit('celery' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=False).returncode == 0


@pytest.fixture
def eager(tmp_path: Path) -> Iterator[Celery]:
    """An app that applies tasks where they are published, as tests of other projects do."""
    configure(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}", spool_dir=tmp_path / "spool")
    app = Celery("eager", set_as_current=False)
    app.conf.update(task_always_eager=True)
    install(app)
    yield app
    uninstall(app)
    configure(None)


def test_a_task_that_is_applied_at_once_is_a_child_of_the_run_it_is_applied_in(eager: Celery) -> None:
    @eager.task
    def leaf() -> str | None:
        return run.id

    @eager.task
    def tree() -> tuple[str | None, str | None]:
        leaf_id = leaf.delay().get(disable_sync_subtasks=False)
        return run.id, leaf_id

    with run("script") as script:
        tree_id, leaf_id = tree.delay().get()
        after = run.id
    assert after == script.id
    assert [(runs.retrieve_sync(one).parent, runs.retrieve_sync(one).root) for one in (tree_id, leaf_id)] == [
        (script.id, script.id),
        (tree_id, script.id),
    ]


def test_a_retry_that_is_applied_at_once_is_an_attempt(eager: Celery) -> None:
    @eager.task(bind=True)
    def flaky(self: Any) -> tuple[str | None, int | None]:
        if self.request.retries < 2:
            raise self.retry(exc=OSError("not yet"), countdown=0)
        return run.id, run.attempt

    run_id, attempt = flaky.delay().get()
    assert attempt == 3
    assert steps(run_id) == [
        ("EXECUTING", 1, None),
        ("QUEUED", 1, "not yet"),
        ("EXECUTING", 2, None),
        ("QUEUED", 2, "not yet"),
        ("EXECUTING", 3, None),
        ("COMPLETED", 3, None),
    ]


def test_arguments_and_results_are_not_recorded_unless_asked_for(eager: Celery) -> None:
    @eager.task
    def secret(password: str) -> str:
        return f"{run.id} {password}"

    def recorded() -> tuple[Any, Any]:
        found = runs.retrieve_sync(secret.delay("12345").get().split()[0])
        return found.payload, found.output and str(found.output).split()[1]

    assert recorded() == (None, None)
    install(eager, payload=True, output=True)
    assert recorded() == ({"args": ["12345"], "kwargs": {}}, "12345")
    uninstall(eager)
    assert secret.delay("12345").get() == "None 12345"


def test_settings_that_cannot_be_used_do_no_harm_to_the_tasks(
    eager: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @eager.task
    def double(value: int) -> int:
        metadata.set("value", value)
        return 2 * value

    configure(None)
    monkeypatch.setenv("RUN_LEDGER_URL", "nowhere")
    monkeypatch.setattr("ledger.integrations.celery._warned", set())
    assert [double.delay(value).get() for value in range(3)] == [0, 2, 4]
    assert [line for line in caplog.messages if "RUN_LEDGER_URL is 'nowhere'" in line] == [
        "a task is not reported: BadSettings: RUN_LEDGER_URL is 'nowhere': string should match pattern '^https?://'"
    ]


def test_the_tasks_of_an_app_without_the_integration_are_no_runs(eager: Celery) -> None:
    other = Celery("other", set_as_current=False)
    other.conf.update(task_always_eager=True)

    @other.task
    def alone() -> str | None:
        return run.id

    assert alone.delay().get() is None
    assert runs.list_sync() == []
