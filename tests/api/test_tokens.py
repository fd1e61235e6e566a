"""Public tokens: for every route, what one opens, and what is done about each that should open nothing."""

import asyncio
import base64
import hmac
import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.app import create_app
from api.scopes import NEEDS
from api.token_scopes import TOKEN_NEEDS
from api.tokens import Scope, is_token, signed
from ledger.keys import derive_key
from ledger.master import MASTER_BYTES, Master, UnusableSecret, secret_file
from tests.api.keys import BATCH, EVERY, KEYED, Keyed, body_of, path_of, seen
from tests.api.server import ROOT
from tests.api.service import MASTER, SECOND, Service, problem, service
from tests.strategies import thorough

ISSUER, AUDIENCE = "https://id.trigger.dev", "https://api.trigger.dev"
FOR_TOKENS = sorted(TOKEN_NEEDS)
KEY_ONLY = [route for route in KEYED if route not in TOKEN_NEEDS]
LIVE = "/api/v1/runs/{run_id}/metadata/live"


@pytest.fixture
def key(api: Service) -> Keyed:
    made = Keyed(api, name="ci", scopes=["admin"])
    made.create_batch()
    made.create("r", tags=["a tag", "other"], metadata={"secret": 1}, payload={"rows": 1})
    return made


def claims_of(api: Service, key: Keyed, *scopes: str, **changes: Any) -> dict[str, Any]:
    """What the SDK signs, with changes; what is changed to `...` is left out."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": api.now // SECOND,
        "exp": api.now // SECOND + 900,
        "sub": key.id,
        "pub": True,
        "scopes": [*scopes],
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not ...}


def token_of(api: Service, key: Keyed, *scopes: str, **changes: Any) -> str:
    return jwt.encode(claims_of(api, key, *scopes, **changes), key.text, "HS256")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def ask(api: Service, token: str, route: tuple[str, str], run: str = "r") -> httpx2.Response:
    return api.request(route[0], path_of(route, run), headers=bearer(token), **body_of(route))


def forged(header: dict[str, Any], claims: Any, secret: str | None) -> str:
    """A JWT by hand, because libraries refuse to make such."""

    def part(value: Any) -> str:
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(text).rstrip(b"=").decode()

    text = f"{part(header)}.{part(claims)}"
    if secret is None:
        return f"{text}."
    return f"{text}.{part(hmac.digest(secret.encode(), text.encode(), 'sha256'))}"


# --- what opens nothing ---


def _other_key(api: Service, key: Keyed) -> Keyed:
    return Keyed(api, "prod", scopes=["admin"])


HS256 = {"alg": "HS256", "typ": "JWT"}
BAD: dict[str, Callable[[Service, Keyed], str]] = {
    "alg none": lambda api, key: forged({"alg": "none"}, claims_of(api, key, "admin"), None),
    "alg None": lambda api, key: forged({"alg": "None"}, claims_of(api, key, "admin"), None),
    "alg none, signed": lambda api, key: forged({"alg": "none"}, claims_of(api, key, "admin"), key.text),
    "alg HS512": lambda api, key: jwt.encode(claims_of(api, key, "admin"), key.text, "HS512"),
    "alg RS256, signed with the key": lambda api, key: forged(
        {"alg": "RS256"}, claims_of(api, key, "admin"), key.text
    ),
    "no alg": lambda api, key: forged({"typ": "JWT"}, claims_of(api, key, "admin"), key.text),
    "no signature": lambda api, key: forged(HS256, claims_of(api, key, "admin"), None),
    "critical header": lambda api, key: forged(
        {**HS256, "crit": ["b64"], "b64": False}, claims_of(api, key, "admin"), key.text
    ),
    "header is a list": lambda api, key: forged([], claims_of(api, key, "admin"), key.text),  # type: ignore[arg-type]
    "claims are a list": lambda api, key: forged(HS256, ["admin"], key.text),
    "claims are deep": lambda api, key: forged(HS256, b"[" * 5_000, key.text),
    "claims are no text": lambda api, key: forged(HS256, b"\xff\xfe", key.text),
    "another secret": lambda api, key: jwt.encode(claims_of(api, key, "admin"), "x" * 64, "HS256"),
    "no secret": lambda api, key: forged(HS256, claims_of(api, key, "admin"), ""),
    "the key's hash as secret": lambda api, key: forged(
        HS256, claims_of(api, key, "admin"), sha256(key.text.encode()).hexdigest()
    ),
    "the key's id as secret": lambda api, key: forged(HS256, claims_of(api, key, "admin"), key.id),
    "sub of another key": lambda api, key: token_of(api, key, "admin", sub=_other_key(api, key).id),
    "sub with the environment": lambda api, key: token_of(api, key, "admin", sub=f"dev_{key.id}"),
    "sub of no key": lambda api, key: token_of(api, key, "admin", sub="aaaaaaaaaaaaaaaa"),
    "sub with more": lambda api, key: token_of(api, key, "admin", sub=f"{key.id}\n"),
    "sub is a list": lambda api, key: forged(HS256, claims_of(api, key, "admin", sub=[key.id]), key.text),
    "no sub": lambda api, key: token_of(api, key, "admin", sub=...),
    "wrong issuer": lambda api, key: token_of(api, key, "admin", iss="https://id.trigger.dev/"),
    "no issuer": lambda api, key: token_of(api, key, "admin", iss=...),
    "issuer is a list": lambda api, key: forged(HS256, claims_of(api, key, "admin", iss=[ISSUER]), key.text),
    "wrong audience": lambda api, key: token_of(api, key, "admin", aud="https://example.com"),
    "no audience": lambda api, key: token_of(api, key, "admin", aud=...),
    "several audiences": lambda api, key: token_of(api, key, "admin", aud=[AUDIENCE, "https://example.com"]),
    "not public": lambda api, key: token_of(api, key, "admin", pub=False),
    "public is 1": lambda api, key: token_of(api, key, "admin", pub=1),
    "public is a text": lambda api, key: token_of(api, key, "admin", pub="true"),
    "nothing of public": lambda api, key: token_of(api, key, "admin", pub=...),
    "no expiry": lambda api, key: token_of(api, key, "admin", exp=...),
    "expiry is null": lambda api, key: token_of(api, key, "admin", exp=None),
    "expiry is a text": lambda api, key: forged(
        HS256, claims_of(api, key, "admin", exp=str(api.now // SECOND + 900)), key.text
    ),
    "expiry is true": lambda api, key: forged(HS256, claims_of(api, key, "admin", exp=True), key.text),
    "expiry is infinite": lambda api, key: forged(HS256, claims_of(api, key, "admin", exp=float("inf")), key.text),
    "expiry is no number": lambda api, key: forged(
        HS256, claims_of(api, key, "admin", exp=float("nan")), key.text
    ),
    "expiry in milliseconds": lambda api, key: token_of(api, key, "admin", exp=(api.now // SECOND + 900) * 1_000),
    "expiry beyond all years": lambda api, key: token_of(api, key, "admin", exp=10**30),
    "negative expiry": lambda api, key: token_of(api, key, "admin", exp=-1),
    "issued in the future": lambda api, key: token_of(api, key, "admin", iat=api.now // SECOND + 61),
    "no time of issue": lambda api, key: token_of(api, key, "admin", iat=...),
    "not yet to be used": lambda api, key: token_of(api, key, "admin", nbf=api.now // SECOND + 61),
    "scopes are a text": lambda api, key: token_of(api, key, scopes="admin"),
    "scopes are numbers": lambda api, key: token_of(api, key, scopes=["admin", 1]),
    "one-time is a text": lambda api, key: token_of(api, key, "admin", otu="no"),
    "realtime is a list": lambda api, key: token_of(api, key, "admin", realtime=["payload"]),
    "too long": lambda api, key: token_of(api, key, "admin", *[f"read:runs:{n}" for n in range(1_000)]),
    "four parts": lambda api, key: token_of(api, key, "admin") + ".x",
    "two parts": lambda api, key: token_of(api, key, "admin").rpartition(".")[0],
    "dots": lambda api, key: "..",
    "tampered claims": lambda api, key: _with_part(token_of(api, key), 1, claims_of(api, key, "admin")),
    "tampered header": lambda api, key: _with_part(token_of(api, key, "admin"), 0, {"alg": "HS256"}),
    "cut signature": lambda api, key: token_of(api, key, "admin")[:-2],
    "signed with a key of another master": lambda api, key: jwt.encode(
        claims_of(api, key, "admin"), derive_key(b"another", "dev", key.id), "HS256"
    ),
}


def _with_part(token: str, index: int, value: Any) -> str:
    parts = token.split(".")
    parts[index] = base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
    return ".".join(parts)


@pytest.mark.parametrize("what", BAD)
def test_a_token_that_is_not_as_it_must_be_opens_nothing(api: Service, key: Keyed, what: str) -> None:
    token = BAD[what](api, key)
    before = api.contents()
    for route in FOR_TOKENS:
        answer = ask(api, token, route)
        assert problem(answer, 401)["code"] in {"bad-token", "unknown-key"}
        assert answer.headers["www-authenticate"] == 'Bearer realm="run-ledger", error="invalid_token"'
        assert "secret" not in answer.text
    assert api.contents() == before


@pytest.mark.parametrize("route", KEYED)
def test_no_route_takes_a_forged_expired_or_orphaned_token(
    api: Service, key: Keyed, route: tuple[str, str]
) -> None:
    good = token_of(api, key, "admin")
    none = BAD["alg none"](api, key)
    assert problem(ask(api, none, route), 401)["code"] == "bad-token"
    past = token_of(api, key, "admin", exp=api.now // SECOND)
    assert problem(ask(api, past, route), 401)["code"] == "expired-token"
    key.revoke()
    assert problem(ask(api, good, route), 401)["code"] == "revoked-key"


def test_a_token_lives_until_the_moment_it_expires(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "read:runs:r")
    api.now += 900 * SECOND - 1
    assert ask(api, token, ("GET", "/api/v3/runs/{run_id}")).status_code == 200
    api.now += 1
    assert problem(ask(api, token, ("GET", "/api/v3/runs/{run_id}")), 401)["code"] == "expired-token"


def test_a_token_dies_with_its_key(api: Service, key: Keyed) -> None:
    short = Keyed(api, scopes=["read"], expires_at=api.now + 10 * SECOND)
    token = token_of(api, short, "read:runs:r")
    route = ("GET", "/api/v3/runs/{run_id}")
    assert ask(api, token, route).status_code == 200
    api.now += 10 * SECOND
    assert problem(ask(api, token, route), 401)["code"] == "expired-key"


def test_a_clock_that_is_a_little_ahead_may_sign(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "read:runs:r", iat=api.now // SECOND + 60, nbf=api.now // SECOND + 60)
    assert ask(api, token, ("GET", "/api/v3/runs/{run_id}")).status_code == 200


def test_a_token_in_a_repeated_or_other_header_opens_nothing(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "admin")
    for headers in ({"Authorization": token}, {"Authorization": f"Basic {token}"}, {"x-trigger-jwt": token}):
        assert problem(api.get("/api/v3/runs/r", headers), 401)
    assert problem(api.get(f"/api/v3/runs/r?token={token}"), 401)


@given(text=st.text(alphabet="abcXYZ019-_.=", max_size=80))
def test_no_key_is_taken_for_a_token_and_no_nonsense_for_either(text: str) -> None:
    assert not is_token(derive_key(MASTER, "dev", "a" * 16))
    assert is_token(text) == (re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]*", text) is not None)


# --- every route ---


@pytest.mark.parametrize("route", KEY_ONLY)
def test_what_is_not_for_tokens_refuses_even_one_that_may_everything(
    api: Service, key: Keyed, route: tuple[str, str]
) -> None:
    before = api.contents()
    answers = [ask(api, token_of(api, key, "admin", "*"), route, run) for run in ("r", "nobody", "a%00b")]
    assert [problem(answer, 403)["code"] for answer in answers] == ["key-only"] * 3
    assert len({answer.content for answer in answers}) == 1
    assert api.contents() == before


NOTHING = [[], ["nonsense"], [""], ["read:"], ["deploy"], ["Admin"], ["admin:runs"], ["erase", "read:queues"]]


@pytest.mark.parametrize("route", FOR_TOKENS)
def test_a_token_without_a_fitting_scope_is_forbidden(api: Service, key: Keyed, route: tuple[str, str]) -> None:
    before = api.contents()
    for scopes in NOTHING:
        answers = [ask(api, token_of(api, key, *scopes), route, run) for run in ("r", "nobody")]
        assert [problem(answer, 403)["code"] for answer in answers] == ["out-of-scope"] * 2
        assert answers[0].headers["www-authenticate"].endswith('error="insufficient_scope"')
        assert seen(answers[0]) == seen(answers[1])
    assert api.contents() == before


@pytest.mark.parametrize("route", FOR_TOKENS)
def test_a_token_for_everything_opens_what_is_for_tokens(api: Service, key: Keyed, route: tuple[str, str]) -> None:
    for scope in ("admin", "*", "*:all"):
        assert ask(api, token_of(api, key, scope), route).status_code in {200, 201}


@pytest.mark.parametrize("route", FOR_TOKENS)
def test_a_token_may_not_do_what_its_key_may_not(api: Service, key: Keyed, route: tuple[str, str]) -> None:
    needed = NEEDS[route]
    assert needed is not None
    lesser = Keyed(api, scopes=["erase"])
    assert problem(ask(api, token_of(api, lesser, "admin"), route), 403)["code"] == "missing-scope"


def test_the_table_names_routes_that_there_are() -> None:
    assert set(TOKEN_NEEDS) < set(EVERY)


def test_the_documentation_names_every_route_for_tokens() -> None:
    text = (ROOT / "docs/realtime.md").read_text()
    documented = re.findall(r"^\| `([A-Z]+ /[^`]*)` \| `([a-zA-Z]+)`", text, re.MULTILINE)
    table = [
        (f"{method} {path}".replace("{run_id}", "{id}").replace("{task:path}", "{task}"), need.action)
        for (method, path), need in TOKEN_NEEDS.items()
    ]
    assert sorted(documented) == sorted(table)


# --- what a scope reaches ---

OF_A_RUN = [
    (["read:runs:r"], True),
    (["read:runs"], True),
    (["read"], True),
    (["read:all"], True),
    (["*:runs:r"], True),
    (["read:tasks:t"], True),
    (["read:tasks"], True),
    (["read:tags:a tag"], True),
    (["read:tags:other", "write"], True),
    (["read:runs:other", "read:runs:r"], True),
    (["read:runs:other"], False),
    (["read:runs:R"], False),
    (["read:runs:r:x"], False),
    (["read:runs:"], False),
    (["read:tasks:x"], False),
    (["read:tags:a"], False),
    (["read:batch:b"], False),
    (["read:tags"], True),
    (["write:runs:r"], False),
    (["trigger:tasks:t"], False),
]


@pytest.mark.parametrize("path", ["/api/v3/runs/r", "/realtime/v1/runs/r"])
def test_a_run_is_read_with_a_scope_for_it_its_task_or_one_of_its_tags(
    api: Service, key: Keyed, path: str
) -> None:
    for method in ("GET", "HEAD"):
        found = [
            (scopes, api.request(method, path, headers=bearer(token_of(api, key, *scopes))).status_code)
            for scopes, _ in OF_A_RUN
        ]
        assert found == [(scopes, 200 if allowed else 403) for scopes, allowed in OF_A_RUN]


def test_a_token_for_one_run_is_forbidden_every_other_id_existing_or_not(api: Service, key: Keyed) -> None:
    key.create("hidden", task="t")
    token = token_of(api, key, "read:runs:r")
    for path in ("/api/v3/runs/{}", "/realtime/v1/runs/{}", "/api/v1/runs/{}/metadata", "/api/v1/runs/{}/verify"):
        answers = [
            api.get(path.format(run), bearer(token)) for run in ("hidden", "nobody", "a%00b", "r%00", "x" * 200)
        ]
        assert [answer.status_code for answer in answers] == [403] * 5
        assert len({answer.content for answer in answers}) == 1
    everything = token_of(api, key, "read:runs")
    assert problem(api.get("/api/v3/runs/nobody", bearer(everything)), 404)["code"] == "run-not-found"


def test_a_token_does_not_see_relatives_that_it_is_not_for(api: Service, key: Keyed) -> None:
    key.create("child", parentRunId="r")
    answers = {
        scope: api.get("/api/v3/runs/child", bearer(token_of(api, key, "read:runs:child", scope))).json()
        for scope in ("write", "read:runs:r", "read:tags:other")
    }
    assert {scope: sorted(answer["relatedRuns"]) for scope, answer in answers.items()} == {
        "write": [],
        "read:runs:r": ["parent", "root"],
        "read:tags:other": ["parent", "root"],
    }


def test_a_token_of_a_restricted_key_reaches_what_both_allow(api: Service, key: Keyed) -> None:
    key.create("mine", task="mine")
    restricted = Keyed(api, scopes=["read:tasks:mine"])
    token = token_of(api, restricted, "read:runs", "trigger")
    assert api.get("/api/v3/runs/mine", bearer(token)).status_code == 200
    assert problem(api.get("/api/v3/runs/r", bearer(token)), 404)["code"] == "run-not-found"
    listed = api.get("/api/v1/runs", bearer(token)).json()["data"]
    assert [run["id"] for run in listed] == ["mine"]
    assert problem(ask(api, token, ("POST", "/api/v1/tasks/{task:path}/trigger")), 403)
    assert json.loads(api.get("/realtime/v1/runs?tags=other", bearer(token)).content)[:-1] == []


@pytest.mark.parametrize(
    ("scopes", "query", "status"),
    [
        (["read:runs"], "", 200),
        (["read:tasks"], "", 200),
        (["read"], "", 200),
        (["read:runs:r"], "", 403),
        (["read:tasks:t"], "", 403),
        (["read:tags:a"], "", 403),
        (["read:tasks:t"], "?filter[taskIdentifier]=t", 200),
        (["read:tasks:t"], "?filter[taskIdentifier]=t,u", 403),
        (["read:tasks:t", "read:tasks:u"], "?filter[taskIdentifier]=t,u", 200),
        (["read:tasks:t"], "?filter[taskIdentifier]=", 403),
        (["read:tasks:t"], "?filter[taskIdentifier]=,", 403),
        (["write:tasks:t"], "?filter[taskIdentifier]=t", 403),
    ],
)
def test_runs_are_listed_with_a_scope_for_all_of_them_or_for_every_task_asked_for(
    api: Service, key: Keyed, scopes: list[str], query: str, status: int
) -> None:
    assert api.get(f"/api/v1/runs{query}", bearer(token_of(api, key, *scopes))).status_code == status


@pytest.mark.parametrize(
    ("scopes", "tags", "status"),
    [
        (["read:runs"], "a", 200),
        (["read:tags"], "a", 200),
        (["read:tags:a"], "a,b", 200),
        (["read:tags:b"], "a,b", 200),
        (["read:tags:c"], "a,b", 403),
        (["read:runs:r"], "a", 403),
        (["read:tasks:t"], "a", 403),
        (["read:batch:b"], "a", 403),
    ],
)
def test_tags_are_followed_with_a_scope_for_one_of_them(
    api: Service, key: Keyed, scopes: list[str], tags: str, status: int
) -> None:
    answer = api.get(f"/realtime/v1/runs?tags={tags}", bearer(token_of(api, key, *scopes)))
    assert answer.status_code == status


def test_a_batch_is_followed_with_a_scope_for_it(api: Service, key: Keyed) -> None:
    for path in (f"/realtime/v1/batches/{BATCH}", f"/api/v2/batches/{BATCH}"):
        allowed = {
            scope: api.get(path, bearer(token_of(api, key, scope))).status_code
            for scope in (f"read:batch:{BATCH}", "read:batch", "read:batch:c", "read:runs", f"write:batch:{BATCH}")
        }
        assert [*allowed.values()] == [200, 200, 403, 403, 403]
    everything = token_of(api, key, "read:batch")
    for unknown in ("batch_" + "1" * 25, "x"):
        answer = api.get(f"/realtime/v1/batches/{unknown}", bearer(everything))
        assert problem(answer, 404)["code"] == "batch-not-found"


@pytest.mark.parametrize(
    ("scopes", "tasks", "status"),
    [
        (["batchTrigger"], [], 201),
        (["batchTrigger:batch"], ["t"], 201),
        (["batchTrigger:tasks"], ["t"], 201),
        (["batchTrigger:tasks:t"], ["t"], 201),
        (["batchTrigger:tasks:t", "batchTrigger:tasks:u"], ["t", "u"], 201),
        (["batchTrigger:tasks:t"], ["t", "u"], 403),
        (["batchTrigger:tasks:t"], [], 403),
        (["trigger:tasks:t"], ["t"], 403),
        (["batchTrigger:runs"], ["t"], 403),
    ],
)
def test_a_batch_is_made_with_a_scope_for_every_task_that_it_names(
    api: Service, key: Keyed, scopes: list[str], tasks: list[str], status: int
) -> None:
    token = token_of(api, key, *scopes)
    body: dict[str, Any] = {"runCount": 1, "taskIdentifiers": tasks} if tasks else {"runCount": 1}
    answer = api.post("/api/v3/batches", body, headers=bearer(token))
    assert answer.status_code == status, answer.text
    if status == 201:
        made = answer.json()["id"]
        reader = answer.headers["x-trigger-jwt"]
        assert api.get(f"/realtime/v1/batches/{made}", bearer(reader)).status_code == 200
        assert api.get(f"/realtime/v1/batches/{BATCH}", bearer(reader)).status_code == 403


def test_items_are_taken_of_tasks_that_a_token_is_for_and_of_no_others(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "batchTrigger:tasks:t")
    headers = {**bearer(token), "Content-Type": "application/x-ndjson"}
    path = f"/api/v3/batches/{BATCH}/items"
    before = api.contents()["runs"]
    for item in ({"index": 0, "task": "u"}, {"index": 0, "task": "t", "options": {"parentRunId": "r"}}):
        answer = api.request("POST", path, content=json.dumps(item), headers=headers)
        assert answer.status_code in {403, 422}
    assert api.contents()["runs"] == before
    answer = api.request("POST", path, content='{"index": 0, "task": "t"}', headers=headers)
    assert (answer.status_code, answer.json()["itemsAccepted"]) == (200, 1)


def test_a_one_time_token_makes_no_batch(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "batchTrigger", otu=True)
    for route in (("POST", "/api/v3/batches"), ("POST", "/api/v3/batches/{batch_id}/items")):
        assert problem(ask(api, token, route), 403)["code"] == "one-time-token"


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ("write:runs:r", 200),
        ("write:tasks:t", 200),
        ("write", 200),
        ("write:tags:other", 403),
        ("write:runs:x", 403),
        ("read:runs:r", 403),
    ],
)
def test_a_run_is_cancelled_with_a_scope_for_it_or_its_task(
    api: Service, key: Keyed, scope: str, status: int
) -> None:
    answer = api.post("/api/v2/runs/r/cancel", {}, headers=bearer(token_of(api, key, scope)))
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("scope", "task", "status"),
    [
        ("trigger:tasks:a/b:c", "a%2Fb:c", 200),
        ("trigger:tasks:t", "t", 200),
        ("trigger:tasks", "t", 200),
        ("trigger", "t", 200),
        ("trigger:tasks:t", "u", 403),
        ("trigger:tasks:t", "t/u", 403),
        ("trigger:runs:t", "t", 403),
        ("write:tasks:t", "t", 403),
        ("batchTrigger:tasks:t", "t", 403),
    ],
)
def test_a_task_is_triggered_with_a_scope_for_it(
    api: Service, key: Keyed, scope: str, task: str, status: int
) -> None:
    before = api.contents()
    answer = api.post(f"/api/v1/tasks/{task}/trigger", {"payload": "1"}, headers=bearer(token_of(api, key, scope)))
    assert answer.status_code == status
    assert (api.contents() == before) == (status == 403)


@given(
    action=st.sampled_from(["read", "write", "trigger"]),
    kind=st.sampled_from(["runs", "tags", "tasks"]),
    name=st.text(alphabet="ab:", min_size=1, max_size=5),
)
def test_an_id_may_hold_colons(action: str, kind: str, name: str) -> None:
    scope = Scope.parse(f"{action}:{kind}:{name}")
    assert (scope.action, scope.type, scope.id) == (action, kind, name)
    assert scope.allows(action, kind, name)
    assert not scope.allows(action, kind, name + "x")
    assert not scope.allows(action, kind, None)
    assert Scope.parse(f"{action}:{kind}").allows(action, kind, None)


# --- where tokens come from ---


def test_the_claims_name_the_key(api: Service) -> None:
    for name in ("dev", "prod-eu"):
        for scopes in (["read"], ["erase"], ["write:tasks:t"]):
            key = Keyed(api, name, scopes)
            answer = key.request("POST", "/api/v1/auth/jwt/claims")
            assert answer.json() == {"sub": key.id, "pub": True}
            assert answer.headers["cache-control"] == "no-store"


def test_a_token_leads_to_its_key_where_two_environments_have_keys_with_its_id(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.keyring.new_key_id", lambda: "0123456789abcdef")
    keys = [Keyed(api, name) for name in ("dev", "prod")]
    assert keys[0].id == keys[1].id
    for key in keys:
        key.create(f"r-{key._environment}")
    for key, other in (keys, reversed(keys)):
        shown = bearer(token_of(api, key, "read"))
        assert api.get(f"/api/v3/runs/r-{key._environment}", shown).status_code == 200
        assert api.get(f"/api/v3/runs/r-{other._environment}", shown).status_code == 404
        forged_token = bearer(jwt.encode(claims_of(api, key, "read"), "x" * 64, "HS256"))
        assert problem(api.get(f"/api/v3/runs/r-{key._environment}", forged_token), 401)["code"] == "bad-token"


def test_a_trigger_answers_a_token_for_its_run(api: Service, key: Keyed) -> None:
    writer = Keyed(api, scopes=["read", "write"])
    answer = writer.request("POST", "/api/v1/tasks/t/trigger", json={"payload": "1"})
    run = answer.json()["id"]
    claims = jwt.decode(
        answer.headers["x-trigger-jwt"], writer.text, ["HS256"], options={"verify_exp": False, "verify_aud": False}
    )
    assert claims == claims_of(api, writer, f"read:runs:{run}", exp=api.now // SECOND + 3_600)
    token = answer.headers["x-trigger-jwt"]
    assert api.get(f"/api/v3/runs/{run}", bearer(token)).status_code == 200
    assert api.get("/api/v3/runs/r", bearer(token)).status_code == 403


def test_who_signs_tokens_itself_gets_the_claims_only(api: Service, key: Keyed) -> None:
    headers = {"trigger-version": "4.8.3"}
    sdk = key.request("POST", "/api/v1/tasks/t/trigger", json={}, headers=headers)
    assert json.loads(sdk.headers["x-trigger-jwt-claims"]) == {"sub": key.id, "pub": True}
    assert "x-trigger-jwt" not in sdk.headers
    browser = {**headers, "x-trigger-client": "browser"}
    assert "x-trigger-jwt" in key.request("POST", "/api/v1/tasks/t/trigger", json={}, headers=browser).headers
    shown = {**headers, **bearer(token_of(api, key, "trigger", realtime={"skipColumns": ["payload"]}))}
    answer = api.post("/api/v1/tasks/t/trigger", {}, headers=shown)
    claims = jwt.decode(answer.headers["x-trigger-jwt"], options={"verify_signature": False})
    assert claims["realtime"] == {"skipColumns": ["payload"]}  # What is hidden stays hidden.


def test_the_history_says_that_a_token_was_shown(api: Service, key: Keyed) -> None:
    answer = api.post("/api/v1/tasks/t/trigger", {}, headers=bearer(token_of(api, key, "trigger")))
    event = key.get(f"/api/v1/runs/{answer.json()['id']}/metadata/history").json()["data"][0]
    assert (event["actor"], event["headers"]["onBehalfOf"]) == ("ci", "public token")


def test_a_token_makes_no_run_below_one_that_it_may_not_read(api: Service, key: Keyed) -> None:
    for scope, status in (("read:runs:r", 200), ("read:tags:other", 200), ("read:runs:x", 422)):
        token = token_of(api, key, "trigger", scope)
        answers = [
            api.post("/api/v1/tasks/t/trigger", {"options": {"parentRunId": run}}, headers=bearer(token))
            for run in ("r", "nobody")
        ]
        assert [answer.status_code for answer in answers] == [status, 422]
    assert answers[0].json()["code"] == answers[1].json()["code"] == "unknown-parent"


def mint(key: Keyed, **body: Any) -> httpx2.Response:
    return key.request("POST", "/api/v1/auth/public-tokens", json=body)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (None, 900),
        ("15m", 900),
        ("1h", 3_600),
        ("2 days", 172_800),
        ("1.5 hours", 5_400),
        ("1y", 30 * 86_400),
        ("90d", 30 * 86_400),
        (1_700_000_000 + 60, 60),
        (1_900_000_000, 30 * 86_400),
        ("2023-11-14T22:14:20Z", 60),
    ],
)
def test_a_token_that_the_server_signs_lives_as_long_as_asked_for_but_at_most_30_days(
    api: Service, key: Keyed, asked: Any, seconds: int
) -> None:
    body = {} if asked is None else {"expirationTime": asked}
    answer = mint(key, scopes=["read:runs:r"], realtime={"skipColumns": ["payload"]}, oneTimeUse=False, **body)
    assert answer.status_code == 200, answer.text
    claims = jwt.decode(answer.json()["token"], options={"verify_signature": False})
    expected = claims_of(
        api,
        key,
        "read:runs:r",
        exp=api.now // SECOND + seconds,
        realtime={"skipColumns": ["payload"]},
        otu=False,
    )
    assert claims == expected
    assert api.get("/api/v3/runs/r", bearer(answer.json()["token"])).status_code == 200
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"scopes": []},
        {"scopes": "read"},
        {"scopes": [""]},
        {"scopes": ["read"] * 101},
        {"scopes": ["x" * 1_025]},
        {"scopes": ["read"], "expirationTime": "soon"},
        {"scopes": ["read"], "expirationTime": -1},
        {"scopes": ["read"], "expirationTime": 1_700_000_000},
        {"scopes": ["read"], "expirationTime": "0s"},
        {"scopes": ["read"], "expirationTime": True},
        {"scopes": ["read"], "expirationTime": "9" * 65},
        {"scopes": ["read"], "oneTimeUse": "yes"},
        {"scopes": ["read"], "realtime": {"skipColumns": "payload"}},
    ],
)
def test_a_token_that_cannot_be_signed_is_refused(key: Keyed, body: dict[str, Any]) -> None:
    assert mint(key, **body).status_code in {400, 422}


@pytest.mark.parametrize(
    ("of_key", "scope", "status"),
    [
        (["read"], "read:runs:r", 200),
        (["read"], "read", 200),
        (["read"], "trigger:tasks:t", 403),
        (["read"], "write:runs:r", 403),
        (["read", "write"], "admin", 403),
        (["read", "write"], "*", 403),
        (["admin"], "admin", 200),
        (["read:tasks:t"], "read:tasks:t", 200),
        (["read:tasks:t"], "read:runs:r", 200),
        (["read:tasks:u"], "read:runs:r", 403),
        (["read:tasks:t"], "read:runs:nobody", 403),
        (["read:tasks:t"], "read:runs", 403),
        (["read:tasks:t"], "read", 403),
        (["read:tasks:t"], "read:batch:b", 403),
        (["read:tags:a"], "read:tags:a", 200),
        (["read:tags:a"], "read:tags:b", 403),
        (["write:tasks:t"], "trigger:tasks:t", 200),
        (["write:tasks:t"], "batchTrigger:tasks:u", 403),
    ],
)
def test_the_server_signs_no_token_that_exceeds_its_key(
    api: Service, key: Keyed, of_key: list[str], scope: str, status: int
) -> None:
    answer = mint(Keyed(api, scopes=of_key), scopes=[scope])
    assert answer.status_code == status
    if status == 403:
        assert problem(answer, 403)["code"] == "scope-beyond-key"
        assert scope in answer.json()["detail"]


# --- a ledger without keys ---


def test_an_open_ledger_takes_any_token_and_names_its_environment(api: Service) -> None:
    api.create("r")
    assert api.request("POST", "/api/v1/auth/jwt/claims").json() == {"sub": "dev", "pub": True}
    minted = api.post("/api/v1/auth/public-tokens", {"scopes": ["read:runs:x"]}).json()["token"]
    for token in (minted, signed("none" * 8, "dev", [], 0, 0), "a.b.c"):
        assert api.get("/api/v3/runs/r", bearer(token)).status_code == 200
    answer = api.post("/api/v1/tasks/t/trigger", {}, headers=bearer(minted))
    assert answer.headers["x-trigger-jwt-claims"] == '{"sub":"dev","pub":true}'
    assert "x-trigger-jwt" not in answer.headers
    Keyed(api)
    assert problem(api.get("/api/v3/runs/r", bearer(minted)), 401)["code"] == "bad-token"


# --- a server without the secret ---


def test_without_the_secret_of_its_keys_a_server_takes_and_signs_no_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with service(tmp_path / "ledger.db") as api:
        key = Keyed(api)
        key.create("r")
        token = token_of(api, key, "read:runs:r")

        def absent() -> bytes:
            raise UnusableSecret("RUN_LEDGER_SECRET is not set")

        for master in (None, absent, lambda: b"another secret, which no key is of"):
            caplog.clear()
            api._http._transport = httpx2.ASGITransport(create_app(api._ledger, api._log, master=master))
            for _ in range(2):
                assert problem(api.get("/api/v3/runs/r", bearer(token)), 401)["code"] == "bad-token"
            assert key.get("/api/v3/runs/r").status_code == 200
            answer = key.request("POST", "/api/v1/tasks/t/trigger", json={})
            assert "x-trigger-jwt" not in answer.headers
            assert "x-trigger-jwt-claims" in answer.headers
            assert problem(mint(key, scopes=["read:runs:r"]), 503)["code"] == "no-secret"
            assert len(caplog.records) == (0 if master is None else 1)
            assert key.text not in caplog.text


def test_a_secret_is_read_when_it_is_there_and_never_made(tmp_path: Path) -> None:
    database = tmp_path / "ledger.db"
    master = Master(None, database)
    with pytest.raises(UnusableSecret, match="No such file"):
        master.read()
    assert not secret_file(database).exists()
    secret_file(database).write_text("ab" * MASTER_BYTES)
    with pytest.raises(UnusableSecret, match="chmod 600"):
        master.read()
    secret_file(database).chmod(0o600)
    assert master.read() == b"ab" * MASTER_BYTES
    assert Master("x" * 32, None).read() == b"x" * 32
    with pytest.raises(UnusableSecret, match="RUN_LEDGER_SECRET"):
        Master(None, None).read()


# --- once ---


def trigger(api: Service, token: str, request: str | None = None, task: str = "t", **body: Any) -> httpx2.Response:
    headers = bearer(token)
    if request is not None:
        headers["x-trigger-request-idempotency-key"] = request
    return api.post(f"/api/v1/tasks/{task}/trigger", body or {"payload": "1"}, headers=headers)


def test_a_one_time_token_triggers_once(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "trigger:tasks:t", otu=True)
    assert trigger(api, token, "one").status_code == 200
    before = api.contents()
    for request in ("two", None):
        assert problem(trigger(api, token, request), 401)["code"] == "spent-token"
    assert api.contents() == before
    assert trigger(api, token_of(api, key, "trigger:tasks:t", otu=True, jti="another")).status_code == 200
    reusable = token_of(api, key, "trigger:tasks:t", otu=False)
    assert [trigger(api, reusable).status_code for _ in range(3)] == [200] * 3


def test_the_retry_of_a_request_gets_its_answer_again_though_its_token_is_spent(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "trigger:tasks:t", otu=True)
    first = trigger(api, token, "one")
    again = trigger(api, token, "one")
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-trigger-jwt"]
    assert problem(trigger(api, token, "one", payload="2"), 422)["code"] == "idempotency-key-reused"
    # Another token does not get the answer of this one, whoever guessed the request's key.
    other = token_of(api, key, "trigger:tasks:t", otu=True, jti="another")
    assert problem(trigger(api, other, "one"), 422)["code"] == "idempotency-key-reused"
    assert trigger(api, other, "two").status_code == 200


def test_a_trigger_that_fails_does_not_spend_the_token(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "trigger:tasks:t", otu=True)
    large: dict[str, Any] = {"options": {"metadata": {"text": "x" * 5_000}}}
    assert trigger(api, token, "one", **large).status_code == 413
    assert trigger(api, token, "two", task="u").status_code == 403
    assert trigger(api, token, "three", options={"parentRunId": "nobody"}).status_code == 422
    assert trigger(api, token, "four", options={"tags": ["x"] * 11 + [*"abcdefghijk"]}).status_code == 422
    assert trigger(api, token, "five").status_code == 200
    assert trigger(api, token, "six").status_code == 401


def test_a_spent_token_stays_spent_however_it_is_written(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "trigger:tasks:t", otu=True)
    spellings = [token[:-1] + last for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"]
    before = api.contents()["runs"]
    codes = [trigger(api, spelling).status_code for spelling in spellings]
    assert sorted(codes) == [200] + [401] * 63
    assert api.contents()["runs"] == before + 1
    named = {trigger(api, spelling).json()["code"] for spelling in spellings}
    assert "spent-token" in named


@given(data=st.data())
@settings(thorough, max_examples=15)
def test_no_token_that_somebody_altered_does_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    with service(tmp_path_factory.mktemp("altered") / "ledger.db") as api:
        key = Keyed(api)
        for run in ("r", "s"):
            key.create(run)
        token = token_of(api, key, "read:runs:r")
        for _ in range(20):
            place = data.draw(st.integers(0, len(token) - 1))
            letter = data.draw(st.sampled_from("ABab01-_."))
            altered = token[:place] + letter + token[place + 1 :]
            statuses = [api.get(f"/api/v3/runs/{run}", bearer(altered)).status_code for run in ("r", "s")]
            assert statuses in ([[200, 403]] if place == len(token) - 1 or altered == token else []) + [[401, 401]]


def test_of_many_uses_at_once_one_gets_through(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "trigger:tasks:t", otu=True)
    before = api.contents()["runs"]

    async def all_at_once() -> list[int]:
        calls = [
            api._http.post(
                "/api/v1/tasks/t/trigger",
                json={"payload": str(number)},
                headers={**bearer(token), "Idempotency-Key": f"key-{number}"},
            )
            for number in range(20)
        ]
        return [answer.status_code for answer in await asyncio.gather(*calls)]

    assert sorted(api._runner.run(all_at_once())) == [200] + [401] * 19
    assert api.contents()["runs"] == before + 1


def test_a_one_time_token_does_nothing_but_trigger(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "trigger", "read", otu=True)
    for route in FOR_TOKENS:
        if route[0] == "GET":
            assert problem(ask(api, token, route), 403)["code"] == "one-time-token"
    assert trigger(api, token).status_code == 200


def test_a_spent_token_stays_spent_as_long_as_it_lives(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "trigger", otu=True, exp=api.now // SECOND + 20 * 86_400)
    assert trigger(api, token, "one").status_code == 200
    for _ in range(19):
        api.now += 86_400 * SECOND
        other = token_of(api, key, "trigger", otu=True, exp=api.now // SECOND + 60)
        assert trigger(api, other).status_code == 200  # Clears away what has expired.
        assert problem(trigger(api, token, "two"), 401)["code"] == "spent-token"
    api.now += 86_400 * SECOND
    assert problem(trigger(api, token, "two"), 401)["code"] == "expired-token"


def test_no_callers_key_meets_what_is_remembered_of_a_spent_token(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "trigger", otu=True)
    digest = sha256(token.rpartition(".")[0].encode()).hexdigest()
    for name in (digest, f"\x1f{digest}"):
        headers = {**bearer(token), "Idempotency-Key": name}
        answer = api.post("/api/v1/tasks/t/trigger", {}, headers=headers)
        assert answer.status_code == (200 if name == digest else 400)


# --- rates ---


def test_tokens_take_nothing_from_their_key(api: Service, key: Keyed) -> None:
    token = token_of(api, key, "read:runs:r")
    others = token_of(api, key, "read")
    counted = [
        int(api.get("/api/v3/runs/r", bearer(shown)).headers["x-ratelimit-remaining"])
        for shown in (token, others, key.text, token)
    ]
    assert (counted[0] - counted[1], counted[1] - counted[3]) == (1, 1)
    assert counted[2] > counted[3]
