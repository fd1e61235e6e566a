"""
Every case that the reference implementation of the operations was asked, and its answers.

Source: `applyMetadataOperations` of the npm package `@trigger.dev/core` 4.8.3 under Node 20.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from projections import values
from projections.errors import BadJson, BadValue, Refusal
from projections.operations import AnyOperation, Operation
from projections.snapshot import Decision, Snapshot, decide
from tests import model
from tests.javascript import doubles, exact, stringify

# Some strings hold U+2028, at which splitlines would break a line in two.
LINES = (Path(__file__).parent / "operations-vectors.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
CASES = [
    pytest.param(line, id=f"{number}-{json.loads(line)['group']}") for number, line in enumerate(LINES, start=1)
]
NO_LIMIT = 10**9
OPERATIONS: TypeAdapter[list[Operation]] = TypeAdapter(list[AnyOperation])


def test_all_vectors_are_here() -> None:
    assert len(LINES) == 500
    assert sum("refuse" in json.loads(line) for line in LINES) > 20


@pytest.mark.parametrize("line", CASES)
def test_answer_is_that_of_the_reference(line: str) -> None:
    vector = json.loads(line)
    if "refuse" in vector:
        with pytest.raises((BadJson, BadValue, ValidationError, Refusal)):
            decision_on(line)
        return
    decision = decision_on(line)
    assert exact(doubles(dict(decision.snapshot.metadata))) == exact(doubles(vector["expected"]))
    assert decision.snapshot.size_bytes == vector["bytes"]
    assert len(decision.unapplied) >= vector["unapplied"]
    assert len(decision.unapplied) + len(decision.events) == len(vector["operations"])


@pytest.mark.parametrize("line", [case for case in CASES if '"refuse":' not in str(case.values[0])])
def test_model_of_the_tests_gives_the_answer_of_the_reference(line: str) -> None:
    vector = json.loads(line)
    outcome = model.run(vector["metadata"], vector["operations"])
    assert exact(outcome.metadata) == exact(doubles(vector["expected"]))
    assert len(stringify(outcome.metadata).encode()) == vector["bytes"]


def decision_on(line: str) -> Decision:
    vector: Any = values.parse(line)
    metadata = values.canonical(vector["metadata"])
    assert isinstance(metadata, dict)
    return decide(Snapshot.of(metadata, 1), OPERATIONS.validate_python(vector["operations"]), NO_LIMIT)
