"""What this process has to report about one run, in order, and the run's metadata as this process sees it."""

import asyncio
from collections import deque
from collections.abc import Iterable
from itertools import groupby
from typing import Any, cast

from ledger.errors import WriteRefused
from ledger.handle.requests import Reported, Request, changes
from projections import values
from projections.errors import Refusal
from projections.metadata import evolve
from projections.operations import AppendItem, Delete, Increment, Operation, RemoveItem, Set, Update
from projections.values import JsonObject

OWN, PARENT, ROOT = range(3)  # Whose metadata an operation is about: the indexes of `requests.TARGETS`.

REFUSED_KEPT = 100  # refusals that wait to be raised

_OPERATIONS: dict[str, type[Operation]] = {
    "set": Set,
    "delete": Delete,
    "append": AppendItem,
    "remove": RemoveItem,
    "increment": Increment,
    "update": Update,
}


class View:
    """
    A run's metadata as this process sees it: what the ledger last said, and on top of it what was reported since.

    Attributes:
        is_known: The ledger has said once what the metadata is.
    """

    def __init__(self, metadata: JsonObject | None) -> None:
        self.is_known = metadata is not None
        self._metadata: JsonObject = metadata or {}
        self._since: list[Reported] = []

    def add(self, operation: Reported) -> None:
        """Something was reported."""
        self._since.append(operation)

    def current(self) -> JsonObject:
        """The metadata; the caller must not change it."""
        for operation in self._since:
            self._metadata = _evolved(self._metadata, operation)
        self._since.clear()
        return self._metadata

    def told(self, metadata: JsonObject, since: Iterable[Reported]) -> None:
        """The ledger said what the metadata is; *since* is what it could not know yet."""
        self.is_known = True
        self._metadata = metadata
        self._since = list(since)


class Outbox:
    """
    Reports about one run.

    Attributes:
        run_id: The run.
        task: What it executes, None where this process does not know.
        attempt: The attempt that reports, None for the run's current one.
        parent: The run above it, None where there is none or it is not known.
        root: The topmost run above it, likewise.
        items: What was reported and is no request yet.
        requests: What is to be sent next; the first may be on its way.
        refused: What was not accepted and was not raised yet, the first hundred.
        refused_count: How much that is.
        view: The run's metadata.
        waits_for_parent: A parent that the ledger does not know yet is one that will come.
        is_due: A flush is planned.
        planned: The event loop's timer for it.
        flushed_at: When the last flush ended, by the event loop's clock.
        is_cached: The ledger said that the run existed before it was to be created; None before it said anything.
    """

    def __init__(
        self,
        run_id: str,
        *,
        task: str | None = None,
        attempt: int | None = None,
        parent: str | None = None,
        root: str | None = None,
        metadata: JsonObject | None = None,
    ) -> None:
        self.run_id = run_id
        self.task = task
        self.attempt = attempt
        self.parent = parent
        self.root = root
        self.items: list[Reported | Request] = []
        self.requests: deque[Request] = deque()
        self.refused: list[WriteRefused] = []
        self.refused_count = 0
        self.view = View(metadata)
        self.waits_for_parent = False
        self.is_due = False
        self.planned: asyncio.TimerHandle | None = None
        self.flushed_at = float("-inf")
        self.is_cached: bool | None = None
        self.sending = asyncio.Lock()
        self._targets = (OWN, PARENT, ROOT)
        self._apart = False

    def know_family(self, parent: str | None, root: str | None) -> None:
        """
        Who the parent and root are is certain now; None for none.

        Two of a request's three lists may be about one run. Where that is known they become one list, which keeps
        their order; where it is not, the order is kept by sending more requests.
        """
        self.parent, self.root = parent, root
        self._targets = (OWN, PARENT, PARENT if root == parent else ROOT) if parent else (OWN, OWN, OWN)
        self._apart = True

    def target(self, wanted: int) -> int:
        """The list of a request that an operation for *wanted* goes to."""
        return self._targets[wanted]

    def requests_of(self, items: Iterable[Reported | Request], actor: str | None) -> list[Request]:
        """What is to be sent for *items*, in their order."""
        made: list[Request] = []
        for is_operation, group in groupby(items, key=lambda item: isinstance(item, Reported)):
            if is_operation:
                operations = cast("list[Reported]", list(group))
                made += changes(self.run_id, self.attempt, actor, operations, apart=self._apart)
            else:
                made += cast("Iterable[Request]", group)
        return made

    def refuse(self, refusal: WriteRefused) -> None:
        """Keep what was not accepted until somebody can be told; of very many the first ones, and how many."""
        self.refused_count += 1
        if len(self.refused) < REFUSED_KEPT:
            self.refused.append(refusal)

    def take_refusal(self) -> WriteRefused | None:
        """The first thing that was not accepted since this was last asked, with a note of how many more."""
        refused, count = self.refused, self.refused_count
        self.refused, self.refused_count = [], 0
        if not refused:
            return None
        if count > 1:
            refused[0].add_note(f"{count - 1} more reports about this run were not accepted")
        return refused[0]

    def own_items(self) -> list[Reported]:
        """What was reported about the run itself and is no request yet."""
        return [item for item in self.items if isinstance(item, Reported) and item.target == OWN]

    def forget(self) -> None:
        """Leave everything to another process that has it too."""
        self.items = []
        self.requests.clear()
        self.refused, self.refused_count = [], 0
        self.is_due = False
        self.sending = asyncio.Lock()


def _evolved(metadata: JsonObject, reported: Reported) -> JsonObject:
    members: dict[str, Any] = {} if reported.value is None else {"value": values.load(reported.value)}
    if reported.key is not None:
        members["key"] = reported.key
    try:
        return evolve(metadata, _OPERATIONS[reported.type].model_construct(**members))
    except Refusal:  # The ledger will say so.
        return metadata
