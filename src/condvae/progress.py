"""One line about long work: how far it is, at what rate, and how long it will still take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Self

PLAIN_EVERY = 10.0
"""Seconds between plain lines, where standard error is no terminal."""


class ProgressLine:
    """A line on standard error: alive on a terminal, and else a plain one every few seconds.

    Arguments:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        class Unread(Console):
            def on_broken_pipe(self) -> None:  # rich would end the program
                self.quiet = True

        self.console = Unread(stderr=True, quiet=quiet, highlight=False, markup=False)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[numbers]}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=1.0, numbers="")
        self.what, self.began, self.said = "", 0.0, 0.0

    def start(self, what: str) -> None:
        """Begin a piece of work, named in a word or two."""
        self._shown(self.bar.start)
        self.what = what
        self.began = self.said = time.monotonic()
        self.bar.reset(self.task, description=what, total=1.0, numbers="")

    def show(self, share: float, numbers: str = "", seconds: float | None = None) -> None:
        """Say that a share of the work is done, 0 to 1.

        Arguments:
            numbers: what else to say.
            seconds: how long that share took; by default, the time since the work began.
        """
        now = time.monotonic()
        passed = now - self.began if seconds is None else seconds
        left = f"{clock(passed / share * (1 - share))} left" if share > 0 else ""
        text = f"{numbers}  {left}" if numbers else left
        if self.console.is_terminal:
            self._shown(lambda: self.bar.update(self.task, completed=share, numbers=text))
        elif now - self.said > PLAIN_EVERY or share >= 1:
            self.said = now
            line = f"{self.what} {share:4.0%}  {text}"
            self._shown(lambda: self.console.print(line, soft_wrap=True))

    def close(self) -> None:
        """Take the line away."""
        if not self.bar.disable:  # older versions of rich end with an empty line that which never began
            self._shown(self.bar.stop)

    def _shown(self, act: Callable[[], object]) -> None:
        """Do it; after a terminal has hung up, or a pipe was closed, work goes on without its line."""
        with contextlib.suppress(OSError):
            act()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
