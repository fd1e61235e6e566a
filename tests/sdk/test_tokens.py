"""Public tokens, as the SDK makes and shows them."""

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jwt
import pytest

from tests.api.keys import Keyed
from tests.api.server import Server, serving
from tests.api.service import MASTER, service
from tests.sdk.node import Node
from tests.sdk.test_realtime import Job


@dataclass(frozen=True)
class Closed:
    """
    A server whose ledger has keys.

    Attributes:
        server: The server.
        key: A key of environment prod, for everything.
        reader: One that may only read runs of the task t.
        revoked: One that opens nothing any more.
    """

    server: Server
    key: str
    reader: str
    revoked: str


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    path = tmp_path_factory.mktemp("tokens") / "ledger.db"
    with service(path) as api:
        key = Keyed(api, "prod", ["admin"])
        reader = Keyed(api, "prod", ["read:tasks:t"])
        revoked = Keyed(api, "prod", ["admin"])
        revoked.revoke()
    with serving(path, RUN_LEDGER_SECRET=MASTER.decode()) as server:
        yield Closed(server, key.text, reader.text, revoked.text)


@pytest.fixture
def job(closed: Closed) -> Iterator[Job]:
    with closing(Job(closed.server, closed.key)) as made:
        yield made


def token(node: Node, closed: Closed, key: str | None = None, **options: Any) -> str:
    made = node.play(
        "realtime.mjs", "createPublicToken", url=closed.server.url, key=key or closed.key, options=options
    )
    assert isinstance(made, str)
    return made


def tried(node: Node, closed: Closed, shown: str, **calls: Any) -> Any:
    return node.play("realtime.mjs", "withToken", url=closed.server.url, token=shown, **calls)


def test_a_token_reads_its_run_and_is_forbidden_every_other(node: Node, closed: Closed, job: Job) -> None:
    for run in ("mine", "other"):
        job.create(run, metadata={"n": 1})
        job.move("COMPLETED", run)
    shown = token(node, closed, scopes={"read": {"runs": ["mine"]}})
    done = tried(node, closed, shown, retrieve=["mine", "other", "nobody"], follow="mine")
    assert done["retrieved"][0] == "mine"
    assert [answer["failed"] for answer in done["retrieved"][1:]] == [403, 403]
    assert [state["metadata"] for state in done["followed"]] == [{"n": 1}]


def test_a_token_of_a_revoked_key_cannot_be_made_and_one_of_a_lesser_key_may_no_more(
    node: Node, closed: Closed, job: Job
) -> None:
    job.create("lesser")
    with closing(Job(closed.server, closed.key)) as other:
        other._http.post("/api/v1/runs", json={"id": "hidden", "task": "u"})
    shown = token(node, closed, closed.reader, scopes={"read": {"runs": True}, "write": {"runs": True}})
    assert [
        answer if isinstance(answer, str) else answer["failed"]
        for answer in tried(node, closed, shown, retrieve=["lesser", "hidden"])["retrieved"]
    ] == ["lesser", 404]
    with pytest.raises(Exception, match="was revoked at") as failed:
        token(node, closed, closed.revoked)
    assert failed.value.error["status"] == 401  # type: ignore[attr-defined]


def test_a_token_lives_as_long_as_its_maker_says(node: Node, closed: Closed) -> None:
    claims = jwt.decode(token(node, closed, expirationTime="2h"), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 7_200
    assert re.fullmatch("[a-z0-9]{16}", claims["sub"])


def test_a_token_to_trigger_triggers_once(node: Node, closed: Closed) -> None:
    made = node.play(
        "realtime.mjs", "createTriggerPublicToken", url=closed.server.url, key=closed.key, task="import"
    )
    first = tried(node, closed, made, trigger="import")["triggered"]
    assert first["id"].startswith("run_")
    second = tried(node, closed, made, trigger="import")["triggered"]
    assert (second["failed"], second["body"]["code"]) == (401, "spent-token")
    other = node.play(
        "realtime.mjs", "createTriggerPublicToken", url=closed.server.url, key=closed.key, task="import"
    )
    assert tried(node, closed, other, trigger="export")["triggered"]["failed"] == 403
    # What comes with the answer reads the run, and nothing else.
    shown = first["publicAccessToken"]
    assert tried(node, closed, shown, retrieve=[first["id"], "mine"])["retrieved"][0] == first["id"]


@pytest.mark.parametrize("lifetime", [None, "3h"])
def test_the_handle_of_a_trigger_reads_its_run_while_it_goes_on(
    node: Node, closed: Closed, job: Job, lifetime: str | None
) -> None:
    request = {} if lifetime is None else {"publicAccessToken": {"expirationTime": lifetime}}
    said = iter(
        node.begin(
            "realtime.mjs",
            "triggerAndFollow",
            url=closed.server.url,
            key=closed.key,
            task="import",
            options={"metadata": {"n": 0}},
            requestOptions=request,
        )
    )
    handle = next(said)
    claims = jwt.decode(handle["publicAccessToken"], options={"verify_signature": False})
    assert claims["scopes"] == [f"read:runs:{handle['id']}"]
    assert claims["exp"] - claims["iat"] == (3_600 if lifetime is None else 10_800)
    first = next(said)
    job.write(handle["id"])
    job.move("COMPLETED", handle["id"])
    assert [state["metadata"]["n"] for state in (first, *said)] == [0, 1, 1]
    assert first["payload"] == {"rows": 3}


def test_the_handle_of_a_batch_reads_its_runs(node: Node, closed: Closed) -> None:
    handle = node.play(
        "realtime.mjs", "triggerBatch", url=closed.server.url, key=closed.key, task="import", payloads=[1, 2, 3]
    )
    shown = handle["publicAccessToken"]
    said = node.begin(
        "realtime.mjs", "followBatch", url=closed.server.url, key=shown, batch=handle["batchId"], count=3
    )
    assert sorted(state["payload"] for state in said) == [1, 2, 3]
    assert tried(node, closed, shown, retrieve=["mine"])["retrieved"][0]["failed"] == 403


def test_an_open_ledger_answers_claims_and_takes_what_is_signed_with_anything(
    node: Node, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serving(tmp_path_factory.mktemp("open") / "ledger.db") as server, closing(Job(server)) as job:
        job.create("r", metadata={"n": 1})
        job.move("COMPLETED")
        opened = Closed(server, "any text", "", "")
        for key in ("any text", "tr_dev_1234", "tr_dev_sk_" + "a" * 24):
            shown = token(node, opened, key, scopes={"read": {"runs": ["other"]}})
            done = tried(node, opened, shown, retrieve=["r"], follow="r", trigger="t")
            assert done["retrieved"] == ["r"]
            assert len(done["followed"]) == 1
            assert done["triggered"]["publicAccessToken"]
        assert job._http.post("/api/v1/auth/jwt/claims").json() == {"sub": "dev", "pub": True}
