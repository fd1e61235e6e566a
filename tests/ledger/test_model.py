"""A ledger under random use, held against a model of lists and dictionaries."""

import asyncio
import json
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from ledger.answers import Changed, Created, Moved
from ledger.errors import (
    IdempotencyConflict,
    LateWrite,
    RunExists,
    RunNotFound,
    UnknownParent,
    WrongExpectedVersion,
)
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.writes import ChangeMetadata, ChangeStatus, CreateRun
from projections.errors import BadTransition, TooLarge
from projections.lifecycle import Status
from projections.operations import AppendItem, Delete, Increment, Operation, RemoveItem, Set, Update
from projections.runs import evolve_run
from tests.ledger.support import (
    ALL,
    SECOND,
    START,
    Clock,
    Database,
    PostgresDatabase,
    check_chain,
    check_sound,
    events,
    once,
)
from tests.postgres import Server

LIMIT = 200  # bytes
FINISHED = {"COMPLETED", "FAILED"}
KEYS = st.sampled_from(["a", "b", "ü"])
SMALL = st.sampled_from([0, 1, -2, 0.5, True, None, "x", [1], {"a": 1}, "long" * 12])
OPERATIONS = st.lists(
    st.one_of(
        st.builds(Set, key=KEYS, value=SMALL),
        st.builds(Increment, key=KEYS, value=st.sampled_from([1, 0.25])),
        st.builds(AppendItem, key=KEYS, value=SMALL),
        st.builds(RemoveItem, key=KEYS, value=SMALL),
        st.builds(Delete, key=KEYS),
        st.builds(Update, value=st.dictionaries(KEYS, SMALL, max_size=2)),
    ),
    max_size=3,
)
NO_OPERATIONS: st.SearchStrategy[list[Operation]] = st.one_of(st.just([]), OPERATIONS)


def same(left: Any, right: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def step(metadata: dict[str, Any], operation: Operation) -> dict[str, Any] | None:
    """The metadata after one operation on a top-level key, None where it has nothing to work on."""
    match operation:
        case Update(value=value):
            return dict(value)
        case Delete(key=key):
            return {name: value for name, value in metadata.items() if name != key}
        case Set(key=key, value=value):
            return {**metadata, key: value}
        case Increment(key=key, value=amount):
            old = metadata.get(key, 0)
            total = (old if isinstance(old, int | float) and not isinstance(old, bool) else 0) + amount
            return {**metadata, key: int(total) if total == int(total) else total}
        case AppendItem(key=key, value=value):
            if key not in metadata:
                return {**metadata, key: [value]}
            old = metadata[key]
            return {**metadata, key: [*old, value] if isinstance(old, list) else [old, value]}
        case RemoveItem(key=key, value=value):
            old = metadata.get(key)
            if not isinstance(old, list):
                return None
            return {**metadata, key: [item for item in old if not same(item, value)]}


def size(metadata: dict[str, Any]) -> int:
    return len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())


@dataclass
class ModelRun:
    id: str
    task: str
    parent: str | None
    root: str | None
    status: str
    attempt: int
    states: list[dict[str, Any]]
    types: list[str]
    moments: list[int]
    positions: list[int]
    finished: int | None
    refusals: list[str] = field(default_factory=list)

    @property
    def version(self) -> int:
        return len(self.states)


class Model:
    """What the ledger ought to hold."""

    def __init__(self) -> None:
        self.runs: dict[str, ModelRun] = {}
        self.position = 0
        self.now = 0
        self.remembered: dict[str, tuple[object, Any, int]] = {}

    def record(self, run: ModelRun, kind: str, metadata: dict[str, Any]) -> None:
        self.position += 1
        run.states.append(metadata)
        run.types.append(kind)
        run.moments.append(self.now)
        run.positions.append(self.position)

    def create(self, command: CreateRun) -> Created | type[Exception]:
        known = self.runs.get(command.run_id)
        if known is not None:
            if (known.task, known.parent) != (command.task, command.parent):
                return RunExists
            return Created(known.id, known.version, is_cached=True)
        if command.parent is not None and command.parent not in self.runs:
            return UnknownParent
        if size(command.metadata) > LIMIT:
            return TooLarge
        above = self.runs.get(command.parent or "")
        run = ModelRun(
            id=command.run_id,
            task=command.task,
            parent=command.parent,
            root=None if above is None else above.root or above.id,
            status=command.status.value,
            attempt=command.attempt,
            states=[],
            types=[],
            moments=[],
            positions=[],
            finished=self.now if command.status.value in FINISHED else None,
        )
        self.runs[run.id] = run
        self.record(run, "run.created", command.metadata)
        return Created(run.id, 1, is_cached=False)

    def change(self, command: ChangeMetadata, late_s: int) -> tuple[Any, int] | type[Exception]:
        run = self.runs.get(command.run_id)
        if run is None:
            return RunNotFound
        if command.expected is not None and run.version not in command.expected:
            return WrongExpectedVersion
        if run.finished is not None and self.now > run.finished + late_s * SECOND:
            run.refusals.append("late-write")
            return LateWrite
        lists = [
            (run, command.operations),
            (self.runs[run.parent or run.id], command.parent_operations),
            (self.runs[run.root or run.id], command.root_operations),
        ]
        new: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        unapplied = 0
        for target, operations in lists:
            for operation in operations:
                steps = new.setdefault(target.id, [])
                before = steps[-1][1] if steps else target.states[-1]
                after = step(before, operation)
                if after is None:
                    unapplied += 1
                else:
                    steps.append((operation.event_type, after))
        for run_id, steps in new.items():
            if steps and size(steps[-1][1]) > LIMIT:
                for refused in {run.id, run_id}:
                    self.runs[refused].refusals.append("metadata-too-large")
                return TooLarge
        for run_id, steps in new.items():
            for kind, metadata in steps:
                self.record(self.runs[run_id], kind, metadata)
        return (run.states[-1], run.version), unapplied

    def move(self, command: ChangeStatus) -> Moved | type[Exception]:
        run = self.runs.get(command.run_id)
        if run is None:
            return RunNotFound
        attempt = command.attempt or run.attempt
        wanted = command.status.value
        if wanted != run.status:
            over, ends = run.status in FINISHED, wanted in FINISHED
            if attempt < run.attempt or (over and (ends or attempt == run.attempt)):
                run.refusals.append("bad-transition")
                return BadTransition
            run.status, run.attempt = wanted, attempt
            run.finished = self.now if ends else None
            self.record(run, "run.status_changed", run.states[-1])
        return Moved(run.id, command.status, run.version)


class Crash(Exception):
    """The process dies here, as far as the database can tell."""


class LedgerMachine(RuleBasedStateMachine):
    sent: Bundle[tuple[str, Any, Any]] = Bundle("sent")

    def place(self) -> Database:
        """A new database, which `self.stack` takes away."""
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        return Database(Path(folder) / "ledger.db")

    @initialize()
    def begin(self) -> None:
        self.stack = ExitStack()
        self.database = self.place()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.model = Model()
        self.model.now = START
        self.keys = 0
        self.open()

    def open(self) -> None:
        async def opened() -> tuple[Ledger, Log]:
            url = self.database.url
            ledger = await Ledger.open(url, metadata_bytes_max=LIMIT, late_write_s=10, clock=self.clock)
            return ledger, await ledger.log("dev")

        self.nodes = [self.runner.run(opened()) for _ in range(2)]
        self.ledger, self.log = self.nodes[0]

    @rule()
    def go_to_the_other_node(self) -> None:
        self.nodes.reverse()
        self.ledger, self.log = self.nodes[0]

    @rule(at=st.integers(1, 12), number=st.integers(0, 5), operations=OPERATIONS)
    def crash_in_a_write(self, at: int, number: int, operations: list[Operation]) -> None:
        """Nothing of it is there afterwards, whatever had been sent: the commit is what counts."""
        write = self.ledger._store.write

        async def crashing(work: Any) -> Any:
            return await write(lambda transaction: _carried_out(Crashing(transaction, at), work))

        self.ledger._store.write = crashing  # type: ignore[method-assign]
        try:
            answer = self.send(
                ChangeMetadata(run_id=f"run_{number}", operations=operations), f"crashed {self.keys}"
            )
        finally:
            self.ledger._store.write = write  # type: ignore[method-assign]
        self.keys += 1
        assert answer is Crash

    @rule()
    def reopen(self) -> None:
        for ledger, _ in self.nodes:
            self.runner.run(ledger.close())
        self.open()

    @rule(seconds=st.sampled_from([-3, 0, 1, 11]))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)

    def tick(self) -> None:
        last = max((run.moments[-1] for run in self.model.runs.values()), default=0)
        self.model.now = max(self.clock.now, last)

    def send(self, command: Any, key: str | None) -> Any:
        """The answer, or the class of the error."""
        idempotency = None if key is None else once(key, repr(command))
        methods: dict[type, Any] = {
            CreateRun: self.log.create,
            ChangeMetadata: self.log.change,
            ChangeStatus: self.log.move,
        }

        async def sending() -> Any:
            return await methods[type(command)](command, idempotency=idempotency)

        try:
            return self.runner.run(sending())
        except Exception as error:
            return type(error)

    def expect(self, command: Any) -> Any:
        self.tick()
        match command:
            case CreateRun():
                return self.model.create(command)
            case ChangeStatus():
                return self.model.move(command)
            case _:
                return self.model.change(command, late_s=10)

    def judge(self, answer: Any, expected: Any) -> None:
        if isinstance(answer, Changed):
            snapshot = answer.snapshot
            found = ((json.loads(snapshot.text), snapshot.version), len(answer.unapplied))
            assert same(found, expected), (found, expected)
            assert snapshot.size_bytes == size(expected[0][0])
        else:
            assert answer == expected

    def ask(self, command: Any, with_key: bool) -> Any:
        key = f"key {self.keys}" if with_key else None
        self.keys += 1
        expected = self.expect(command)
        answer = self.send(command, key)
        self.judge(answer, expected)
        if key is not None and not isinstance(answer, type):
            return multiple((key, command, answer))
        return multiple()

    @rule(
        target=sent,
        number=st.integers(0, 5),
        task=st.sampled_from(["t", "t", "u"]),
        parent=st.one_of(st.none(), st.integers(0, 5)),
        status=st.sampled_from([Status.QUEUED, Status.EXECUTING, Status.COMPLETED]),
        metadata=st.dictionaries(KEYS, SMALL, max_size=3),
        with_key=st.booleans(),
    )
    def create(self, number: int, parent: int | None, with_key: bool, **fields: Any) -> Any:
        above = None if parent is None else f"run_{parent}"
        return self.ask(CreateRun(run_id=f"run_{number}", parent=above, **fields), with_key)

    @rule(
        target=sent,
        number=st.integers(0, 6),
        operations=OPERATIONS,
        parent_operations=NO_OPERATIONS,
        root_operations=NO_OPERATIONS,
        expected=st.one_of(st.none(), st.none(), st.frozensets(st.integers(1, 8), max_size=3)),
        with_key=st.booleans(),
    )
    def change(self, number: int, with_key: bool, **fields: Any) -> Any:
        return self.ask(ChangeMetadata(run_id=f"run_{number}", **fields), with_key)

    @rule(
        target=sent,
        number=st.integers(0, 6),
        status=st.sampled_from([Status.EXECUTING, Status.WAITING, Status.COMPLETED, Status.FAILED]),
        attempt=st.sampled_from([None, None, 1, 2, 3]),
        with_key=st.booleans(),
    )
    def move(self, number: int, with_key: bool, **fields: Any) -> Any:
        return self.ask(ChangeStatus(run_id=f"run_{number}", **fields), with_key)

    @rule(first=sent)
    def retry(self, first: tuple[str, Any, Any]) -> None:
        key, command, answer = first
        assert self.send(command, key) == answer._replace(is_replay=True)

    @rule(first=sent, number=st.integers(0, 5))
    def reuse_a_key(self, first: tuple[str, Any, Any], number: int) -> None:
        assert self.send(CreateRun(run_id=f"run_{number}", task="reused"), first[0]) == IdempotencyConflict

    @rule(groups=st.lists(st.tuples(st.integers(0, 5), OPERATIONS, NO_OPERATIONS), min_size=2, max_size=6))
    def change_many_at_once(self, groups: list[tuple[int, list[Operation], list[Operation]]]) -> None:
        commands = [
            ChangeMetadata(run_id=f"run_{number}", operations=own, root_operations=up)
            for number, own, up in groups
        ]

        async def sending() -> list[Any]:
            return await asyncio.gather(*map(self.log.change, commands), return_exceptions=True)

        expected = [self.expect(command) for command in commands]
        for answer, wanted in zip(self.runner.run(sending()), expected, strict=True):
            self.judge(type(answer) if isinstance(answer, Exception) else answer, wanted)

    @invariant()
    def heads_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        for run in self.model.runs.values():
            current = self.runner.run(self.log.current(run.id))
            assert same(json.loads(current.text), run.states[-1])
            assert (current.version, current.size_bytes) == (run.version, size(run.states[-1]))

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        try:
            self.runner.run(self.check_everything())
            for ledger, _ in self.nodes:
                self.runner.run(ledger.close())
            assert check_chain(self.database) == self.model.position
            assert check_sound(self.database).events == self.model.position
        finally:
            self.runner.close()
            self.stack.close()

    async def check_everything(self) -> None:
        for run in self.model.runs.values():
            history = await events(self.log, run.id)
            details = await self.log.run(run.id)
            assert [event.type for event in history] == run.types
            assert [event.position for event in history] == run.positions
            assert [event.recorded_at for event in history] == run.moments
            assert reduce(evolve_run, history, None) == details.run
            assert (details.run.parent, details.run.root) == (run.parent, run.root)
            assert (details.run.status, details.run.attempt, details.run.finished_at) == (
                run.status,
                run.attempt,
                run.finished,
            )
            assert [refusal.code for refusal in await self.log.refusals(run.id)] == run.refusals
            for version, state in enumerate(run.states, start=1):
                past = await self.log.metadata(run.id, version=version)
                assert same(past.metadata, state)
                assert past.version == version
            for moment in set(run.moments):
                version = max(_versions_at(run, moment))
                assert (await self.log.metadata(run.id, at=moment)).version == version
        newest = (await self.log.runs(limit=ALL)).items
        assert [run.id for run in newest] == list(self.model.runs)[::-1]


def _versions_at(run: ModelRun, moment: int) -> Iterable[int]:
    return (version for version, at in enumerate(run.moments, start=1) if at <= moment)


class Crashing:
    """A transaction that fails for good at its n-th statement, or in front of COMMIT."""

    def __init__(self, transaction: Any, at: int) -> None:
        self._transaction = transaction
        self._left = at

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._transaction, name)

        def counted(*arguments: Any) -> Any:
            self._left -= name != "now"
            if self._left <= 0:
                raise Crash
            return method(*arguments)

        return counted


def _carried_out(transaction: Crashing, work: Any) -> Any:
    work(transaction)
    raise Crash


class PostgresMachine(LedgerMachine):
    server: ClassVar[Server]

    def place(self) -> Database:
        return PostgresDatabase(self.stack.enter_context(self.server.database()))


@pytest.fixture(autouse=True, scope="module")
def server(postgres_server: Server) -> None:
    PostgresMachine.server = postgres_server


SETTINGS = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLedgerAgainstItsModel = LedgerMachine.TestCase
TestLedgerAgainstItsModel.settings = SETTINGS
TestLedgerInPostgresAgainstItsModel = PostgresMachine.TestCase
TestLedgerInPostgresAgainstItsModel.settings = SETTINGS
