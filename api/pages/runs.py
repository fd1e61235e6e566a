"""The list of runs."""

from starlette.requests import Request
from starlette.responses import Response

from api.pages.templates import page


async def show(request: Request) -> Response:
    """Answer the list of runs."""
    return page(request, "runs.html", {})
