"""Triggering a run with the SDK."""

from tests.api.server import Server
from tests.sdk.node import Node


def test_a_triggered_run_is_found_with_its_metadata(node: Node, server: Server) -> None:
    played = node.play(
        "runs.mjs",
        "trigger",
        url=server.url,
        task="import",
        payload={"rows": 3},
        options={"metadata": {"progress": 0.5}},
    )
    assert played["run"]["id"] == played["handle"]["id"]
    assert played["run"]["metadata"] == {"progress": 0.5}
    assert played["run"]["payload"] == {"rows": 3}
