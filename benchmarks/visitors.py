"""The explorer under many visitors at once: how long they wait, and whether it stays steady.

    python benchmarks/visitors.py runs/mnist-sample --visitors 32 --seconds 300

Every visitor asks for a test image under all labels, waits for the answer, looks at it for a while and
asks for the next. Waiting times are of the questions that were answered; who comes while the queue is
full is told to try again, and is counted apart. The exit code is 1 where a question ended otherwise, or
memory grew by more than 3% and 5 MiB in the second half of the time.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import logbook
import numpy as np
import psutil
import torch
import tyro

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Visitors:
    """Who comes."""

    run: tyro.conf.Positional[str]
    """The run that is shown."""
    data_root: str = ""
    """Where the run's test images are looked for."""
    visitors: int = 32
    """How many at once."""
    seconds: float = 300.0
    """For how long."""
    pause: float = 5.0
    """Seconds that a visitor looks at an answer, on average."""
    port: int = 7871
    """Where the explorer is served meanwhile."""
    log: Path = HERE / "records" / "visitors.jsonl"
    """File that the line is added to."""


class Tally:
    """What became of the questions."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waited: list[float] = []
        self.refused, self.failed = 0, list[str]()

    def visit(self, address: str, number: int, until: float, pause: float) -> None:
        """One visitor, from coming to going."""
        from gradio_client import Client

        chance = random.Random(number)
        client = Client(address, verbose=False)
        while time.monotonic() < until:
            asked = time.monotonic()
            try:
                client.predict(chance.randrange(100), api_name="/picked")
                with self.lock:
                    self.waited.append(time.monotonic() - asked)
            except Exception as error:
                with self.lock:
                    if "queue" in str(error).lower():
                        self.refused += 1
                    else:
                        self.failed.append(f"{type(error).__name__}: {error}"[:200])
            time.sleep(chance.expovariate(1 / pause))


def served(wanted: Visitors) -> tuple[subprocess.Popen[str], str]:
    """An explorer in a process of its own, once it answers."""
    command = [sys.executable, "-m", "condvae", "explore", wanted.run, "--port", str(wanted.port)]
    command += ["--device", "cpu", *(["--data-root", wanted.data_root] if wanted.data_root else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit("the explorer did not start")
    return process, f"http://127.0.0.1:{wanted.port}"


def load(wanted: Visitors) -> dict[str, Any]:
    """Let them come; returns the line."""
    server, address = served(wanted)
    watched, tally, held = psutil.Process(server.pid), Tally(), []
    try:
        until = time.monotonic() + wanted.seconds
        threads = [
            threading.Thread(target=tally.visit, args=(address, number, until, wanted.pause))
            for number in range(wanted.visitors)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            held.append(watched.memory_info().rss >> 20)
            time.sleep(min(5.0, wanted.seconds / 10))
    finally:
        server.terminate()
        server.wait()
    spans = [float(np.median(span)) for span in np.array_split(np.array(held[1:]), 10)]
    if not tally.waited:
        sys.exit(f"nobody was answered: {tally.failed[:1]}")
    waits = np.array(tally.waited)
    return {
        "visitors": wanted.visitors,
        "seconds": wanted.seconds,
        "answered": len(waits),
        "refused": tally.refused,
        "failed": tally.failed[:5],
        "failures": len(tally.failed),
        "waited_seconds": {
            name: round(float(np.quantile(waits, share)), 3)
            for name, share in (("p50", 0.5), ("p95", 0.95), ("most", 1.0))
        },
        "mebibytes": {"tenths_of_the_time": spans, "most": max(held)},
        "steady": spans[-1] < 1.03 * spans[len(spans) // 2] + 5,
        **logbook.about(torch.device("cpu")),
    }


if __name__ == "__main__":
    wanted = tyro.cli(Visitors, description=__doc__)
    line = load(wanted)
    logbook.add(line, wanted.log)
    print(json.dumps(line, indent=2))
    sys.exit(bool(line["failures"]) or not line["steady"])
