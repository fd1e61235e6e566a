"""What verifying finds: faults, and what was erased on purpose."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from projections.times import Microseconds

FAULTS_KEPT = 20  # faults that are described; all of them are counted
ERASURES_KEPT = 1_000  # erasures that are described; all of them are counted


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One thing that is not as it has to be.

    Attributes:
        environment: Where, None for a fault of the file itself.
        run_id: The run, None for a fault of the log as a whole.
        version: The event, None for a fault of the run as a whole.
        what: What is wrong, in words.
        is_derived: Only what is folded from the events is wrong: a head or a snapshot, which can be made anew.
    """

    environment: str | None
    run_id: str | None
    version: int | None
    what: str
    is_derived: bool = False

    def __str__(self) -> str:
        """As a person reads it."""
        if self.environment is None:
            return f"the file: {self.what}"
        if self.run_id is None:
            return f"the log of {self.environment}: {self.what}"
        where = f"run {self.run_id} ({self.environment})"
        return f"{where}: {self.what}" if self.version is None else f"{where}, version {self.version}: {self.what}"


@dataclass(frozen=True, slots=True)
class Erasure:
    """
    What was erased from a run on purpose, as its events say.

    Attributes:
        environment: Where.
        run_id: From which run.
        number: 1 for the run's first erasure.
        key: What was erased.
        reason: Why.
        actor: Who did it.
        recorded_at: When.
        events: How many events lost something.
    """

    environment: str
    run_id: str
    number: int
    key: str
    reason: str
    actor: str
    recorded_at: Microseconds
    events: int


@dataclass(slots=True)
class Report:
    """
    What verifying found.

    Attributes:
        environments: Names of those that were read.
        runs: Runs that were read.
        events: Events that were read.
        faults: The first of them, in the order in which they were found: run by run, then the log as a whole.
        fault_count: All of them.
        erasures: What was erased on purpose, the first of them.
        erasure_count: All of them.
    """

    environments: list[str] = field(default_factory=list)
    runs: int = 0
    events: int = 0
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0
    erasures: list[Erasure] = field(default_factory=list)
    erasure_count: int = 0

    @property
    def is_sound(self) -> bool:
        """Nothing is wrong."""
        return self.fault_count == 0

    def add(self, faults: Iterable[Fault]) -> None:
        """Count more faults and keep the first."""
        for fault in faults:
            self.fault_count += 1
            if len(self.faults) < FAULTS_KEPT:
                self.faults.append(fault)

    def note(self, erasures: Iterable[Erasure]) -> None:
        """Count more erasures and keep the first."""
        for erasure in erasures:
            self.erasure_count += 1
            if len(self.erasures) < ERASURES_KEPT:
                self.erasures.append(erasure)


def short(value: object) -> str:
    """A stored value as a fault names it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
