"""
How every application beside the product is served, so that no ratio holds what a server's settings are worth.

As the product: one uvicorn process, uvloop, httptools, no access log, and few searches for garbage.
"""

import gc

import uvicorn
from starlette.applications import Starlette

from api.server import BACKLOG, GC_ALLOCATIONS


def serve(app: Starlette) -> None:
    """Serve on a free port of 127.0.0.1; uvicorn logs the address once it listens."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=0,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
    )
