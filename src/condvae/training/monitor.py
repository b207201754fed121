"""What a training shows and records: a progress line, `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from condvae.files import cannot_write, write_text
from condvae.progress import ProgressLine

METRICS = "metrics.jsonl"


class Monitor:
    """Writes every logged step to disk and to TensorBoard, and keeps one line on the terminal alive.

    Arguments:
        path: the run directory.
        resumed_at: step that a resumed run goes on from; later lines of an earlier life are dropped.
    """

    def __init__(self, path: Path, resumed_at: int, quiet: bool = False) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = path
        _keep_until(path / METRICS, resumed_at)
        try:
            self.file = (path / METRICS).open("a", encoding="utf-8")
            self.board = SummaryWriter(str(path / "tensorboard"), purge_step=resumed_at or None)
        except OSError as error:
            raise cannot_write(path, error) from error
        self.line = ProgressLine(quiet)
        self.line.start("training")

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

    def close(self) -> None:
        """Stop the line and close the files."""
        self.line.close()
        try:
            self.file.close()
            self.board.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error


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
