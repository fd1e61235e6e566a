"""
The server to compare with: the routes of the metadata API, which parse a body and answer fixed bytes.

It runs as the product does (Starlette, one uvicorn process, uvloop, httptools, no access log), so that the ratio
of the two leaves out what every Starlette application pays for.
"""

import argparse
import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.serving import serve

PATH = "/api/v1/runs/{id}/metadata"
WRITE_ANSWER = b'{"version":1}'
READ_ANSWER_BYTES_MIN = len(b'{"metadata":""}')


def create_app(read_answer_bytes: int) -> Starlette:
    """Build the application; a read answers JSON of *read_answer_bytes* bytes, at least 15."""
    read_answer = b'{"metadata":"%b"}' % (b"x" * (read_answer_bytes - READ_ANSWER_BYTES_MIN))

    async def write(request: Request) -> Response:
        json.loads(await request.body())
        return Response(WRITE_ANSWER, media_type="application/json")

    async def read(request: Request) -> Response:  # noqa: ARG001 - Starlette passes the request.
        return Response(read_answer, media_type="application/json")

    return Starlette(
        routes=[Route(PATH, write, methods=["PUT", "POST"]), Route(PATH, read, methods=["GET"])],
    )


def main() -> None:
    """Serve on a free port of 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--read-answer-bytes", type=int, default=256)
    serve(create_app(parser.parse_args().read_answer_bytes))


if __name__ == "__main__":
    main()
