"""The tasks that the tests of the Celery integration have executed, and the app of their workers."""

# mypy: disable-error-code="untyped-decorator"

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from celery import Celery, Task, chord
from celery.backends.filesystem import FilesystemBackend
from celery.exceptions import Ignore, Reject
from kombu.transport import filesystem

from ledger import metadata, run
from ledger.integrations.celery import install

FOLDER = Path(os.environ.get("JOBS_FOLDER", "."))
GIVE_UP_S = 60  # seconds after which a task that should have been ended ends by itself


def _written_at_once(path: Path, text: str | bytes) -> None:
    """Nobody shall read half a file."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(text.encode() if isinstance(text, str) else text)
    new.replace(path)


class Channel(filesystem.Channel):
    """Kombu's own writes a message while others may take it already."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]
        name = f"{time.monotonic_ns()}_{uuid4()}.{queue}.msg"
        _written_at_once(Path(self.data_folder_out) / name, json.dumps(payload))


class Transport(filesystem.Transport):
    """A broker made of files."""

    Channel = Channel


class Results(FilesystemBackend):  # type: ignore[misc]
    """As with the messages."""

    def set(self, key: Any, value: Any) -> None:
        _written_at_once(Path(os.fsdecode(self._filename(key))), value)


def connected(app: Celery, folder: Path) -> Celery:
    """An app whose broker and results are files, so that no server is needed."""
    for name in ("queue", "control", "results", "processed", "marks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    app.conf.update(
        broker_url="filesystem://",
        broker_transport=f"{__name__}:Transport",
        broker_transport_options={
            "data_folder_in": str(folder / "queue"),
            "data_folder_out": str(folder / "queue"),
            "control_folder": str(folder / "control"),
            "processed_folder": str(folder / "processed"),
            "store_processed": True,
            "polling_interval": 0.02,
        },
        result_backend=os.environ.get("JOBS_RESULTS", f"{__name__}:Results+file://{folder / 'results'}"),
        result_chord_retry_interval=0.1,
        worker_prefetch_multiplier=1,
        worker_lost_wait=0.2,
        task_default_retry_delay=0,
        broker_connection_retry_on_startup=False,
    )
    return app


app = connected(Celery("jobs"), FOLDER) if "JOBS_FOLDER" in os.environ else Celery("jobs")
install(app, leave_out="jobs.left_out*", payload=True, output=True)


def is_first(name: str) -> bool:
    """True once for each name, whichever process asks."""
    try:
        (FOLDER / "marks" / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def wait_to_be_ended() -> None:
    """Say that the task is under way, and stay in it."""
    (FOLDER / "marks" / f"{run.id}-waits").touch()
    ends_at = time.monotonic() + GIVE_UP_S
    while time.monotonic() < ends_at:
        time.sleep(0.02)


@app.task(name="jobs.fan_out")
def fan_out(count: int, crash: bool = True) -> int:
    metadata.set("total", count)
    for number in range(count):
        count_up.delay(number, crash)
    return count


@app.task(
    name="jobs.count_up",
    acks_late=True,
    reject_on_worker_lost=True,
    autoretry_for=(ConnectionError,),
    retry_kwargs={"countdown": 0},
)
def count_up(number: int, crash: bool = True) -> None:
    metadata.set("number", number)
    if crash and number == 3 and is_first(f"{run.parent}-raises"):
        raise ConnectionError("no answer from the warehouse")
    if crash and number == 7 and is_first(f"{run.parent}-killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    metadata.parent.increment("done")


@app.task(name="jobs.step")
def step(value: int, add: int = 1) -> int:
    metadata.set("seen", value).root.increment("steps")
    return value + add


@app.task(name="jobs.total")
def total(values: list[int]) -> int:
    metadata.set("values", values)
    return sum(values)


@app.task(name="jobs.make_chord")
def make_chord() -> str:
    result: Any = chord([step.s(number) for number in range(3)])(total.s())
    return str(result.id)


def _fail(reason: str) -> None:
    raise OSError(reason)


@app.task(name="jobs.flaky", bind=True, max_retries=3)
def flaky(self: "Task[Any, Any]", failures: int) -> int:
    metadata.append("attempts", run.attempt)
    if self.request.retries < failures:
        try:
            _fail(f"failure {self.request.retries + 1}")
        except OSError as error:
            raise self.retry(exc=error, countdown=0) from error
        finally:
            metadata.append("after", run.attempt)
    return int(self.request.retries)


@app.task(name="jobs.flaky_and_killed", bind=True, acks_late=True, reject_on_worker_lost=True)
def flaky_and_killed(self: "Task[Any, Any]") -> None:
    metadata.append("attempts", run.attempt)
    metadata.flush()
    if is_first(f"{run.id}-killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if is_first(f"{run.id}-retried"):
        raise self.retry(countdown=0)


@app.task(name="jobs.broken")
def broken() -> None:
    metadata.set("progress", 0.5)
    raise ValueError("no such table: orders")


@app.task(name="jobs.endless")
def endless() -> None:
    metadata.set("status", "waits")
    wait_to_be_ended()


@app.task(name="jobs.killed")
def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="jobs.retried_when_lost", retry_on_worker_lost=True, default_retry_delay=1)
def retried_when_lost() -> None:
    metadata.append("attempts", run.attempt)
    metadata.flush()
    if is_first(f"{run.id}-killed"):
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="jobs.exits")
def exits() -> None:
    metadata.set("progress", 0.5)
    sys.exit(3)


@app.task(name="jobs.ignored")
def ignored() -> None:
    raise Ignore


@app.task(name="jobs.rejected", bind=True, acks_late=True)
def rejected(self: "Task[Any, Any]") -> None:
    metadata.append("attempts", run.attempt)
    raise Reject("not now", requeue=is_first(f"{run.id}-requeued"))


@app.task(name="jobs.replaced", bind=True)
def replaced(self: "Task[Any, Any]") -> None:
    metadata.set("replaced", True)
    self.replace(step.s(5))


@app.task(name="jobs.left_out")
def left_out() -> str:
    metadata.set("never", "seen")
    assert run.id is None
    return str(step.delay(1).id)


@app.task(name="jobs.inner")
def inner() -> str:
    with run("inner-part"):
        step.delay(1)
        return str(run.id)


@app.task(name="jobs.reports_nonsense")
def reports_nonsense() -> None:
    metadata.set("too-large", "x" * 10_000)
    metadata.set("kept", True)


@app.task(name="jobs.slowly")
def slowly(count: int, pause_s: float) -> None:
    """Report until told to stop."""
    (FOLDER / "marks" / f"{run.id}-waits").touch()
    for number in range(count):
        metadata.append("numbers", number)
        time.sleep(pause_s)


@app.task(name="jobs.returns_objects")
def returns_objects(argument: Any = None) -> Any:
    return argument
