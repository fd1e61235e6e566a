"""The routes of the pages. What each asks of a key stands in `PAGE_NEEDS` of api/scopes.py."""

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from api.pages import assets, login, run, runs
from api.pages.faults import fault_page
from api.problems import Problem, problem_of
from api.scopes import guarded, is_page
from ledger.errors import LedgerError
from projections.errors import Refusal


def _for_people(route: Route) -> Route:
    """The route, whose refusals are pages."""
    endpoint = guarded(route).endpoint

    async def shown(request: Request) -> ASGIApp:
        try:
            answer: ASGIApp = await endpoint(request)
        except (Problem, LedgerError, Refusal) as error:
            problem = error if isinstance(error, Problem) else problem_of(error)
            if not is_page(request.scope["path"]):
                return problem.response()
            return fault_page(request, problem)
        return answer

    return Route(route.path, shown, methods=route.methods and [*route.methods], name=route.name)


PAGES = tuple(
    map(
        _for_people,
        (
            Route("/", runs.show, methods=["GET"], name="runs"),
            Route("/runs/{run_id}", run.show, methods=["GET"], name="run"),
            Route("/login", login.show, methods=["GET"], name="login"),
            Route("/login", login.sign_in, methods=["POST"], name="sign-in"),
            Route("/logout", login.sign_out, methods=["POST"], name="sign-out"),
            Route("/assets/{name}", assets.get_asset, methods=["GET"], name="asset"),
        ),
    )
)
