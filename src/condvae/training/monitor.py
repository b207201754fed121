"""What a training shows and records: a progress line, `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condvae.files import cannot_write, write_text
from condvae.progress import ProgressLine

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"


class Monitor:
    """Writes every logged step to disk and to TensorBoard, and keeps one line on the terminal alive.

    Arguments:
        path: the run directory.
        resumed_at: step that a resumed run goes on from; later lines of an earlier life are dropped.
    """

    def __init__(self, path: Path, resumed_at: int, quiet: bool = False) -> None:
        self.path = path
        _keep_until(path / METRICS, resumed_at)
        try:
            self.board = self._new_board(resumed_at)
        except OSError as error:
            raise cannot_write(path, error) from error
        self.line = ProgressLine(quiet)
        self.line.start("training")

    def log(self, record: dict[str, Any]) -> None:
        """Append a record of numbers; it has a "step"."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)  # it may have been removed since
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            if not Path(self.board.log_dir).is_dir():
                self.board = self._new_board(record["step"])
            for name, value in record.items():
                if name != "step":
                    self.board.add_scalar(name, value, record["step"])
        except OSError as error:
            raise cannot_write(self.path / METRICS, error) from error

    def _new_board(self, step: int) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.path / "tensorboard"), purge_step=step or None)

    def close(self) -> None:
        """Stop the line and close the files."""
        self.line.close()
        try:
            self.board.close()
        except FileNotFoundError:  # its folder was removed, and what was in it is not missed
            pass
        except OSError as error:
            raise cannot_write(self.path, error) from error


class Unheard(Monitor):
    """What a process has that is not the main one: it writes and shows nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = ProgressLine(quiet=True)

    def log(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _keep_until(file: Path, step: int) -> None:
    """Drop what was logged after a step, and a last line that was cut short."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text("utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    write_text(file, "".join(kept))
