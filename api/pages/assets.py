"""Style, script and icon of the pages: named by what they hold, so that a browser may keep them for ever."""

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from api.problems import Problem

FOLDER = Path(__file__).parent / "assets"

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Asset(NamedTuple):
    """
    A file that pages refer to.

    Attributes:
        name: As it is asked for, such as `page.1f2e3d4c5b6a.css`.
        content: Its bytes.
        media_type: What they are.
    """

    name: str
    content: bytes
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """All of them by the name of the file."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            name = f"{path.stem}.{sha256(content).hexdigest()[:12]}{path.suffix}"
            found[path.name] = Asset(name, content, _TYPES[path.suffix])
    return found


@cache
def _by_name() -> dict[str, Asset]:
    return {asset.name: asset for asset in assets().values()}


def asset_path(file: str) -> str:
    """The path under which a page asks for a file."""
    return f"/assets/{assets()[file].name}"


async def get_asset(request: Request) -> Response:
    """Answer a file."""
    asset = _by_name().get(request.path_params["name"])
    if asset is None:
        raise Problem(404, "no-such-route", "No such route", f"there is nothing at {request.scope['path']}")
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(asset.content, headers=headers, media_type=asset.media_type)
