"""What public tokens are made of: the claims that the Trigger.dev SDK signs, and tokens that this server signs."""

import re
import secrets

from starlette.requests import Request
from starlette.responses import Response

from api.parameters import NO_QUERY
from api.problems import Problem, bad_request
from api.rendering import json_response
from api.requests import header, log_of, read
from api.token_scopes import token_of
from api.tokens import LIFE_S, MINTED_LIFE_S, MINTED_LIFE_S_MAX, Scope, Tokens, signed
from ledger.bodies import PUBLIC_TOKEN
from ledger.errors import RunNotFound
from ledger.keys import Action, ApiKey, Grant
from ledger.log import Log
from projections import values
from projections.times import format_time, parse_time
from projections.values import JsonObject

# What `expirationTime` may say, as the library does that signs tokens in the SDK (jose, `secs`).
_DURATION = re.compile(
    r"\+? ?(\d{1,9}|\d{1,9}\.\d{1,9}) ?"
    r"(?:(s|secs?|seconds?)|(m|mins?|minutes?)|(h|hrs?|hours?)|(d|days?)|(w|weeks?)|(y|yrs?|years?))"
    r"(?: from now)?",
    re.IGNORECASE,
)
_UNITS_S = (1, 60, 3_600, 86_400, 604_800, 31_557_600)

# What of a key each action of a token stands for.
_OF_THE_KEY: dict[str, Action] = {
    "read": "read",
    "write": "write",
    "trigger": "write",
    "batchTrigger": "write",
}


async def claims(request: Request) -> Response:
    """Answer what a token that is signed with the caller's key has to say."""
    NO_QUERY.of(request)
    return json_response(_claims_text(request), headers={"Cache-Control": "no-store"})


async def create_public_token(request: Request) -> Response:
    """Sign a token for a caller that cannot do that itself."""
    body, _ = await read(request, PUBLIC_TOKEN)
    key: ApiKey | None = request.scope.get("run_ledger.key")
    now_s = _now_s(request)
    expires_s = min(_expiry(body.expiration_time, now_s), now_s + MINTED_LIFE_S_MAX)
    if expires_s <= now_s:
        raise bad_request("bad-expiry", "expirationTime is over already; give a duration such as 15m")
    realtime = None if body.realtime is None else {"skipColumns": body.realtime.skip_columns}
    further = {"otu": body.one_time_use, "realtime": realtime}
    if key is None:
        # Nobody verifies it while the ledger is open: any bearer is as good.
        text = signed(secrets.token_hex(32), log_of(request).environment, body.scopes, now_s, expires_s, **further)
    else:
        beyond = [
            scope for scope in body.scopes if not await _is_within(key.grant, log_of(request), Scope.parse(scope))
        ]
        if beyond:
            raise Problem(
                403,
                "scope-beyond-key",
                "The API key may not do this",
                f"this API key may not do what the scope {beyond[0][:80]!r} allows; "
                "a token does not exceed its key",
            )
        tokens: Tokens = request.scope["run_ledger.tokens"]
        made = await tokens.sign(key, body.scopes, expires_s, **further)
        if made is None:
            raise Problem(
                503,
                "no-secret",
                "Tokens cannot be signed",
                "this server does not have the secret that the API key was derived from; set RUN_LEDGER_SECRET",
                headers={"Retry-After": "60"},
            )
        text = made
    answer: JsonObject = {"token": text, "expiresAt": format_time(expires_s * 1_000_000)}
    return json_response(values.dump(answer), headers={"Cache-Control": "no-store"})


async def token_headers(request: Request, scope: str) -> dict[str, str]:
    """
    What an answer says, beside what was made, for reading that with a public token.

    The SDK signs a token itself from the claims, which then lives as long as its caller wants. A browser, and who
    does not use the SDK, gets one that is signed already.
    """
    tokens: Tokens | None = request.scope.get("run_ledger.tokens")
    if tokens is None:
        return {}
    headers = {"x-trigger-jwt-claims": _claims_text(request)}
    key: ApiKey | None = request.scope.get("run_ledger.key")
    token = token_of(request)
    signs_itself = (
        token is None
        and header(request, b"trigger-version") is not None
        and header(request, b"x-trigger-client") != "browser"
    )
    if key is not None and not signs_itself:
        realtime = {"skipColumns": sorted(token.skipped_columns)} if token and token.skipped_columns else None
        text = await tokens.sign(key, [scope], _now_s(request) + LIFE_S, realtime=realtime)
        if text is not None:
            headers["x-trigger-jwt"] = text
    return headers


def _now_s(request: Request) -> int:
    """What the clock shows, in seconds."""
    return log_of(request).now() // 1_000_000


def _claims_text(request: Request) -> str:
    key: ApiKey | None = request.scope.get("run_ledger.key")
    return values.dump({"sub": log_of(request).environment if key is None else key.id, "pub": True})


def _expiry(asked: float | str | None, now_s: int) -> int:
    """When a token is to expire, in seconds since 1970: a number says just that, a text how long it lives."""
    if asked is None:
        return now_s + MINTED_LIFE_S
    if not isinstance(asked, str):
        return int(asked)
    found = _DURATION.fullmatch(asked.strip())
    if found is not None:
        unit_s = next(unit for unit, named in zip(_UNITS_S, found.groups()[1:], strict=True) if named)
        return now_s + int(float(found[1]) * unit_s)
    try:
        return parse_time(asked) // 1_000_000
    except ValueError as error:
        raise bad_request(
            "bad-expiry",
            "expirationTime must be a duration such as 15m or 2 days, or a time in seconds since 1970",
        ) from error


async def _is_within(grant: Grant, log: Log, scope: Scope) -> bool:
    """Whether a key may do what a scope allows."""
    action = _OF_THE_KEY.get(scope.action, "admin")
    reach = grant.reach(action)
    if reach.is_whole or scope.id is None:
        return reach.is_whole
    match scope.type:
        case "tasks":
            return scope.id in reach.tasks
        case "tags":
            return scope.id in reach.tags
        case "runs":
            try:
                own = (await log.family(scope.id)).own
            except RunNotFound:
                return False
            return reach.holds(own.task, own.tags)
        case _:
            return False
