"""Outside any run nothing happens, and it costs next to nothing."""

import dataclasses
from typing import Any

import pytest
from pydantic import BaseModel

from ledger import configure, metadata, run
from ledger.settings import BadSettings
from tests.handle.places import Place, descriptors, program, threads


class Model(BaseModel):
    state: str = "none"


def use_everything() -> None:
    metadata.set("a", 1).append("b", {1, 2}).remove("c", object()).increment("n").decrement("n").delete("x")
    metadata.update({}).parent.set("a", 1).append("a", 1)
    metadata.root.set("a", 1)
    metadata.flush()
    metadata.refresh()


def test_writes_do_nothing_and_reads_give_the_default() -> None:
    before = threads(), descriptors()
    use_everything()
    assert metadata.get("a") is None
    assert metadata.get("$.a.b", 7) == 7
    assert metadata.current() == {}
    assert metadata.as_model(Model) == Model()
    assert (threads(), descriptors()) == before


async def test_awaiting_does_nothing() -> None:
    await metadata.set("a", 1)
    await metadata.flush()
    await metadata.parent.set("a", 1)
    await metadata


def test_the_same_with_a_place_to_report_to(place: Place) -> None:
    use_everything()
    with run("t") as r:
        pass
    use_everything()
    assert place.types(r.id) == ["run.created", "run.status_changed"]


IMPORTS = """
import sys, threading
before = set(sys.modules)
from ledger import metadata, run, runs, task, configure
metadata.set("a", 1).append("b", 2)
metadata.get("a")
metadata.current()
metadata.parent.increment("c")
assert (run.id, run.attempt, run.task) == (None, None, None)

@task
def work(payload):
    metadata.set("a", payload)

work(1)
configure(None)
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = {"api", "pydantic", "asyncio", "sqlalchemy", "httpx2", "sqlite3", "starlette", "logging.config", "ssl", "socket"}
print(sorted(loaded & heavy), threading.active_count())
"""


def test_importing_loads_nothing_heavy_and_starts_nothing(tmp_path: Any) -> None:
    assert program(IMPORTS, cwd=tmp_path).out == "[] 1\n"
    assert list(tmp_path.iterdir()) == []


def test_the_whole_handle_never_loads_the_api(apart: Place) -> None:
    script = """
import sys
from ledger import metadata, run
with run("t"):
    metadata.set("a", 1)
print(any(name.partition(".")[0] == "api" for name in sys.modules))
"""
    assert program(script, variables=apart.variables).out == "False\n"


def test_a_wrong_variable_for_a_run_is_said_once_and_harms_nothing(apart: Place) -> None:
    script = """
from ledger import metadata, run
for _ in range(3):
    metadata.set("a", 1)
    metadata.flush()
print(metadata.get("a"), run.id)
"""
    for wrong in (
        {"RUN_LEDGER_RUN_ID": "no such id"},
        {"RUN_LEDGER_RUN_ID": "x", "RUN_LEDGER_RUN_ATTEMPT": "first"},
    ):
        ended = program(script, variables={**apart.variables, **wrong})
        assert ended.out == "None None\n"
        assert ended.err.count("nothing is reported about run") == 1, ended.err
        assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "target",
    ["", "http://", "https://:80", "http://h:99999999", "nonsense", "sqlite+aiosqlite", "://", "127.0.0.1:8420"],
)
def test_a_target_that_can_be_none_is_refused_by_configure(target: str) -> None:
    with pytest.raises(BadSettings, match=r"\w"):
        configure(target)


@pytest.mark.parametrize(
    "options",
    [
        {"flush_interval_s": 0},
        {"flush_interval_s": 61},
        {"spool_bytes_max": 1},
        {"actor": ""},
        {"actor": "x" * 257},
        {"environment": "No Such"},
    ],
)
def test_a_wrong_option_is_refused_by_configure_and_changes_nothing(place: Place, options: Any) -> None:
    with pytest.raises(BadSettings, match=next(iter(options)).replace("_", "[-_]")):
        configure(place.target, **options)
    with run("t") as r:
        metadata.set("a", 1)
    assert place.metadata(r.id) == {"a": 1}


def test_configure_chooses_the_actor_and_the_environment(place: Place) -> None:
    configure(place.target, actor="importer", spool_dir=place.spool)
    with run("t") as r:
        metadata.set("a", 1)
    assert [event["actor"] for event in place.events(r.id)] == ["importer"] * 3


def test_a_mistake_in_a_payload_is_no_mistake_outside_a_run() -> None:
    @dataclasses.dataclass
    class Odd:
        x: Any

    metadata.set("a", Odd({1})).set(1, 2)  # type: ignore[arg-type]
