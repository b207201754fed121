"""What a training shows and records: a progress line, `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from condvae.files import cannot_write, write_text

METRICS = "metrics.jsonl"


class Monitor:
    """Writes every logged step to disk and to TensorBoard, and keeps one line on the terminal alive.

    Where standard error is no terminal, a plain line every few seconds takes the line's place.

    Arguments:
        path: the run directory.
        resumed_at: step that a resumed run goes on from; later lines of an earlier life are dropped.
    """

    def __init__(self, path: Path, resumed_at: int, quiet: bool = False) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = path
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        _keep_until(path / METRICS, resumed_at)
        try:
            self.file = (path / METRICS).open("a", encoding="utf-8")
            self.board = SummaryWriter(str(path / "tensorboard"), purge_step=resumed_at or None)
        except OSError as error:
            raise cannot_write(path, error) from error
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[numbers]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("training", total=1.0, numbers="")
        self.last_line = 0.0
        self.progress.start()

    def log(self, record: dict[str, Any]) -> None:
        """Append a record of numbers; it has a "step"."""
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
            for name, value in record.items():
                if name != "step":
                    self.board.add_scalar(name, value, record["step"])
        except OSError as error:
            raise cannot_write(self.path / METRICS, error) from error

    def show(self, share: float, seconds: float, numbers: str) -> None:
        """Move the line to a share of the run, with the seconds it has taken so far."""
        left = seconds / share * (1 - share) if share > 0 else 0.0
        text = f"{numbers}  {clock(left)} left"
        if self.console.is_terminal:
            self.progress.update(self.task, completed=share, numbers=text)
        elif time.monotonic() - self.last_line > 10 or share >= 1:
            self.last_line = time.monotonic()
            self.console.print(f"training {share:4.0%}  {text}", soft_wrap=True)

    def close(self) -> None:
        """Stop the line and close the files."""
        self.progress.stop()
        try:
            self.file.close()
            self.board.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _keep_until(file: Path, step: int) -> None:
    """Drop what was logged after a step, and a last line that was cut short."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text("utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_text(file, "".join(kept))
