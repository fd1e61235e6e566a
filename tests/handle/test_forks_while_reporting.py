"""A process that reports from several threads may fork at any moment, as a worker's main process does."""

import os
import threading
from pathlib import Path

from ledger import configure, run, runs
from tests.api.server import serving

FORKS = 15
REPORTS_PER_FORK = 60


def test_threads_that_report_and_read_do_not_notice_forks(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    turns = threading.Semaphore(0)
    is_over = threading.Event()

    with serving(tmp_path / "ledger.db") as server:
        configure(server.url, spool_dir=tmp_path / "spool", flush_interval_s=0.05)
        with run("forks") as forking:

            def read() -> None:
                while not is_over.is_set():
                    try:
                        runs.retrieve_sync(forking.id)
                    except BaseException as error:
                        failures.append(error)

            def report() -> None:
                for number in range(FORKS * REPORTS_PER_FORK):
                    if number % REPORTS_PER_FORK == 0:
                        turns.acquire(timeout=30)
                    forking.metadata.increment("n")

            threads = [threading.Thread(target=read), threading.Thread(target=report)]
            for thread in threads:
                thread.start()
            for _ in range(FORKS):
                turns.release()
                child = os.fork()
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)
            threads[1].join()
            is_over.set()
            threads[0].join()
        assert runs.retrieve_sync(forking.id).metadata == {"n": FORKS * REPORTS_PER_FORK}
        configure(None)
    assert failures == []
