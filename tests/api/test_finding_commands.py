"""`run-ledger runs` with filters, and how a terminal spells them."""

import json
from pathlib import Path

import pytest
import typer

from api.finding_commands import conditions
from tests.api.server import Call
from tests.api.service import SECOND, operation, service


@pytest.fixture
def filled(call: Call, tmp_path: Path) -> Call:
    """The command line on a database with three runs."""
    path = tmp_path / "run-ledger.db"
    with service(path) as made:
        for number, state in enumerate(("running", "done", "running")):
            parent = "r0" if number == 1 else None
            made.create(
                f"r{number}",
                tags=[f"t{number}"],
                metadata={"s": {"state": state}, "n": number},
                parentRunId=parent,
            )
            made.now += SECOND
        made.put("r0", {"operations": [operation("set", "n", 9)]})
    return call


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--filter", "$.s.state=running"], ["r2", "r0"]),
        (["--filter", "$.s.state=running", "--filter", "n<5"], ["r2"]),
        (["--filter", "n>=2"], ["r2", "r0"]),
        (["--filter", "n!=9"], ["r2", "r1"]),
        (["--filter", "[n][in]=1,2"], ["r2", "r1"]),
        (["--filter", "gone?"], []),
        (["--filter", "gone!?"], ["r2", "r1", "r0"]),
        (["--tag", "t0,t1"], ["r1", "r0"]),
        (["--parent", "r0"], ["r1"]),
        (["--root", "r0"], ["r1"]),
        (["--created-from", "2023-11-14T22:13:21Z"], ["r2", "r1"]),
        (["--created-to", "2023-11-14T22:13:21Z"], ["r1", "r0"]),
        (["--updated-from", "2023-11-14T22:13:22Z"], ["r2", "r0"]),
        (["--updated-to", "2023-11-14T22:13:22Z"], ["r2", "r1"]),
        (["--sort", "updatedAt"], ["r1", "r2", "r0"]),
        (["--sort", "-updatedAt", "--limit", "1"], ["r0"]),
        (["--stalled"], []),
        (["--not-stalled", "--not-regressed"], ["r2", "r1", "r0"]),
    ],
)
def test_runs_are_found(filled: Call, arguments: list[str], expected: list[str]) -> None:
    done = filled("runs", "--json", *arguments)
    assert done.code == 0, done.err
    assert [run["id"] for run in json.loads(done.out)["data"]] == expected


def test_what_is_no_condition_is_said(filled: Call) -> None:
    done = filled("runs", "--filter", "running")
    assert done.code == 2
    assert "is no condition" in done.err


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("a=1", "[a][eq]", "1"),
        ("a.b=x=y", "[a.b][eq]", "x=y"),
        ("$.a.0>=2", "[$.a.0][gte]", "2"),
        ("a<=2", "[a][lte]", "2"),
        ("a!=", "[a][ne]", ""),
        ("a][ne=1", "[a][ne][eq]", "1"),
        ("[a=b][lt]=1", "[a=b][lt]", "1"),
        ("a?", "[a][exists]", "true"),
        ("a!?", "[a][exists]", "false"),
    ],
)
def test_a_condition_of_the_terminal_becomes_one_of_the_query(text: str, name: str, value: str) -> None:
    assert conditions([text]) == {f"filter[metadata]{name}": [value]}


def test_conditions_on_one_key_stand_beside_each_other() -> None:
    assert conditions(["a!=1", "a!=2"]) == {"filter[metadata][a][ne]": ["1", "2"]}
    with pytest.raises(typer.BadParameter):
        conditions([""])
