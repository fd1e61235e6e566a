"""The tests' own stage: scenarios are played in Node, with the packages as npm has them."""

import json

import pytest

from tests.sdk.node import HERE, Failed, Node, fetch


def test_the_packages_are_exactly_the_ones_asked_for() -> None:
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    found = {name: json.loads((fetch() / name / "package.json").read_text())["version"] for name in wanted}
    assert found == wanted


def test_nothing_records_where_packages_were_fetched_from() -> None:
    assert not list(HERE.glob("*lock*"))


def test_an_error_is_told_and_the_next_scenario_plays(node: Node) -> None:
    with pytest.raises(Failed, match=r"runs\.mjs has no scenario absent"):
        node.play("runs.mjs", "absent")
    with pytest.raises(Failed) as failed:
        node.play("runs.mjs", "trigger", url="http://127.0.0.1:9", task="t")
    assert failed.value.error["message"] == "Connection error."
