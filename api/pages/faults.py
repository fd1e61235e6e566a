"""What went wrong, said to a person where a page was asked for, and as a problem body everywhere else."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from api.pages.templates import page
from api.problems import Problem
from api.scopes import is_page
from api.sessions import COOKIE, set_cookie


def answer_to(scope: Scope, problem: Problem) -> Response:
    """The answer to a request that was refused."""
    if not is_page(scope["path"]):
        return problem.response()
    return fault_page(Request(scope), problem)


def fault_page(request: Request, problem: Problem) -> Response:
    """A page that says what went wrong and what to do; whoever only has to sign in is sent to the form."""
    if problem.status == 401:
        return _to_the_form(request, problem)
    return page(
        request,
        "fault.html",
        {"problem": problem},
        status=problem.status,
        headers=problem.headers,
    )


def _to_the_form(request: Request, problem: Problem) -> Response:
    if request.headers.get("sec-fetch-site") == "cross-site":
        # A link on another page leads here without the cookie, which is SameSite=Strict. The page that this answer
        # is asks for the same address again, now by itself, so that who has signed in need not do so again.
        return page(request, "again.html", {})
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    query = "" if wanted == "/" else f"?next={quote(wanted, safe='')}"
    answer = RedirectResponse(f"/login{query}", 303, headers={"Cache-Control": "no-store"})
    if problem.code not in {"no-key", "bad-authorization"}:  # A session that opens nothing is in the way.
        answer.headers.append("Set-Cookie", set_cookie(request.scope, "", COOKIE, max_age_s=0))
    return answer
