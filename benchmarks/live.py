"""
What do live updates cost: many subscribers on one run, a reader that stalls, and a server that is killed?

Run by hand: `python -m benchmarks.live --subscribers 200 --writes 1000`. One JSON line a case.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

STALLED_TEXT_BYTES = 4_000  # of each value that a stalled reader does not take


@asynccontextmanager
async def server(path: Path, port: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The product on a database, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api.cli", "serve", "--port", str(port)),
        *("--database-url", f"sqlite+aiosqlite:///{path}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).split()[5].decode()
    try:
        yield process, url
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()


def resident_mb(process: asyncio.subprocess.Process) -> float:
    """Memory that a process holds, in MB."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def quiet(process: asyncio.subprocess.Process) -> None:
    """Wait until a process has next to nothing to do: readers are filled, and only stall from then on."""
    spent = -100
    while True:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()  # noqa: ASYNC240 - Memory.
        now = int(fields[11]) + int(fields[12])  # Hundredths of a second, in user mode and in the kernel.
        if now - spent < 5:
            return
        spent = now
        await asyncio.sleep(1)


async def subscribe(port: int, seen: list[tuple[int, float]], until: int) -> None:
    """Follow the run through restarts, and note each version with the time at which it came."""
    last = ""
    while not seen or seen[-1][0] < until:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        resume = f"Last-Event-ID: {last}\r\n" if last else ""
        path = "/api/v1/runs/r/metadata/live"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{resume}\r\n".encode())
        try:
            while line := await reader.readline():
                if line.startswith(b"id: "):
                    last = line[4:].strip().decode()
                elif line.startswith(b"data: "):
                    seen.append((int(last), time.perf_counter()))
                    if int(last) >= until:
                        break
        except OSError:
            pass
        writer.close()


async def write(url: str, first: int, last: int, written: dict[int, float], value: str = "") -> None:
    """Write versions one after the other, trying again while there is no server."""
    operation: dict[str, Any] = {"type": "set", "key": "text", "value": value}
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        for version in range(first, last + 1):
            headers = {"If-Match": f'"{version - 1}"'}
            while True:
                try:
                    answer = await http.put(
                        "/api/v1/runs/r/metadata", json={"operations": [operation]}, headers=headers
                    )
                except httpx2.HTTPError:
                    await asyncio.sleep(0.02)
                    continue
                if answer.status_code in {200, 412}:  # 412: it was written, and the answer was lost.
                    break
            written[version] = time.perf_counter()


async def create(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url) as http:
        (await http.post("/api/v1/runs", json={"id": "r", "task": "t"})).raise_for_status()


async def fan_out(path: Path, subscribers: int, writes: int, *, restart: bool) -> dict[str, Any]:
    """Everybody sees every version once and in order, also over a kill in the middle."""
    written: dict[int, float] = {}
    seen: list[list[tuple[int, float]]] = [[] for _ in range(subscribers)]
    begun = time.perf_counter()
    async with server(path, 0) as (process, url):
        port = int(url.rpartition(":")[2])
        await create(url)
        before = resident_mb(process)
        readers = [asyncio.create_task(subscribe(port, one, writes + 1)) for one in seen]
        await asyncio.sleep(2)
        open_mb = resident_mb(process)
        begun = time.perf_counter()
        middle = writes // 2 + 1 if restart else writes + 1
        await write(url, 2, middle, written)
        if not restart:
            await asyncio.gather(*readers)
            after = resident_mb(process)
    if restart:
        async with server(path, port) as (process, url):
            await write(url, middle + 1, writes + 1, written)
            await asyncio.gather(*readers)
            after = resident_mb(process)
    took = time.perf_counter() - begun
    expected = list(range(2, writes + 2))
    late = [(at - written[version]) * 1000 for one in seen for version, at in one if version in written]
    return {
        "case": "killed and restarted in the middle" if restart else "subscribers on one run",
        "subscribers": subscribers,
        "writes": writes,
        "every version once and in order": all([version for version, _ in one] == expected for one in seen),
        "seconds": round(took, 2),
        "deliveries a second": round(subscribers * writes / took),
        "ms after the writer's answer, median": round(statistics.median(late), 2),
        "ms after the writer's answer, p99": round(statistics.quantiles(late, n=100)[98], 2),
        "server MB before, with streams, after": [round(before), round(open_mb), round(after)],
    }


async def stalled(path: Path, readers: int, writes: int) -> dict[str, Any]:
    """What readers that take nothing cost in memory and time."""
    text = "x" * STALLED_TEXT_BYTES
    async with server(path, 0) as (process, url):
        port = int(url.rpartition(":")[2])
        await create(url)
        begun = time.perf_counter()
        await write(url, 2, writes + 1, {}, text)
        alone, before = time.perf_counter() - begun, resident_mb(process)
        connections = []
        for _ in range(readers):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
            writer.write(b"GET /api/v1/runs/r/metadata/live?from=start HTTP/1.1\r\nHost: localhost\r\n\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            connections.append((reader, writer))
        await quiet(process)
        begun = time.perf_counter()
        await write(url, writes + 2, 2 * writes + 1, {}, text)
        beside, after = time.perf_counter() - begun, resident_mb(process)
        for _, writer in connections:
            writer.transport.abort()
    return {
        "case": "readers that take nothing",
        "readers": readers,
        "writes": writes,
        "bytes each did not take": 2 * writes * STALLED_TEXT_BYTES,
        "writes a second alone, beside them": [round(writes / alone), round(writes / beside)],
        "server MB before, after": [round(before), round(after)],
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--writes", type=int, default=1_000)
    parser.add_argument("--stalled", type=int, default=20)
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for number, restart in enumerate((False, True)):
            path = folder / f"{number}.db"
            print(
                json.dumps(await fan_out(path, options.subscribers, options.writes, restart=restart)), flush=True
            )
        print(json.dumps(await stalled(folder / "stalled.db", options.stalled, options.writes)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
