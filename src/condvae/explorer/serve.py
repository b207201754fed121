"""`condvae explore`: the page, served to this machine alone unless another address is asked for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from condvae.errors import UserError
from condvae.explorer import markup
from condvae.explorer.answers import MOST_BYTES, subject_of
from condvae.explorer.page import gradio, page_of
from condvae.run import MODEL, Run, load

POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' blob: data:; "
    "frame-ancestors 'self'"
)
"""What a browser may fetch for the page: nothing from any other host."""

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Names that this machine has for itself."""
UPLOADS, PER_SECONDS = 20, 10.0
"""How many files may be uploaded in how long."""

Message = MutableMapping[str, Any]


def explore(
    run: str | Path | Run | None = None,
    *,
    data: str | None = None,
    data_root: str | Path | None = None,
    audit: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    browser: bool = False,
    device: str = "auto",
    wait: bool = True,
) -> str:
    """Serve a page that shows a run, until Ctrl-C.

    Nothing is fetched, for the page or for the model: test images and judges are shown where they are
    on this disk.

    Arguments:
        run: a run directory or the name of a model that comes along; by default the run in `runs` that
            was trained last, or else the model `mnist`.
        data, data_root: other test images than the run's own, and where datasets are looked for.
        audit: a folder that `condvae audit` wrote.
        host: address to listen on. Any but 127.0.0.1 shows the page to other machines.
        port: to listen on; 0 for any that is free.
        browser: open a browser.
        wait: serve until Ctrl-C; else in the background, as long as the process lives.

    Returns:
        The page's address.

    Raises:
        UserError: there is no such run, gradio isn't installed, or the port is taken.
    """
    gr = gradio()
    from starlette.middleware import Middleware  # what gradio serves with

    loaded = run if isinstance(run, Run) else load(run or latest(Path("runs")), device)
    page = page_of(subject_of(loaded, data, data_root), audit)
    plain = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port or None,
            prevent_thread_lock=True,
            inbrowser=browser,
            share=False,
            quiet=True,
            max_file_size=MOST_BYTES,
            theme=gr.themes.Default(**plain),
            css=markup.CSS,
            app_kwargs={"middleware": [Middleware(Guard, local=host in LOCAL)]},
            footer_links=["settings"],
            ssr_mode=False,
        )
    except OSError as error:
        raise UserError(f"--port {port}: {error}; choose another, or 0 for any that is free") from error
    if wait:
        print(f"{loaded.path} is shown at {address} (end it with Ctrl-C)", flush=True)
        page.block_thread()
    return str(address)


class Guard:
    """What stands before the page: it refuses what a stranger's page would have a browser send.

    A page from elsewhere can post to this machine, and can make a name of its own mean this machine (DNS
    rebinding). So what changes anything must come from the page itself, and while only this machine is
    served, it must be asked for by a local name. Uploads are counted. Every answer says that the page
    may fetch nothing from other hosts.

    Arguments:
        local: only this machine is served.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], local: bool) -> None:
        self.app, self.local = app, local
        self.uploads: deque[float] = deque(maxlen=UPLOADS)

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[..., Any]
    ) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ())]
                headers.append((b"content-security-policy", POLICY.encode()))
                headers.append((b"referrer-policy", b"no-referrer"))
                message = {**message, "headers": headers}
            await send(message)

        refusal = self.refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, guarded)
            return
        status, words = refusal
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await guarded({"type": "http.response.start", "status": status, "headers": headers})
        await guarded({"type": "http.response.body", "body": words.encode()})

    def refusal(self, scope: Message) -> tuple[int, str] | None:
        """Status and words for what is refused."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.local and urlsplit(f"//{host}").hostname not in LOCAL:
            return 403, f"this page is for this machine alone, and not for {host}"
        if scope["method"] not in ("GET", "HEAD") and origin and urlsplit(origin).netloc != host:
            return 403, f"this page takes nothing from {origin}"
        if scope["method"] == "POST" and scope["path"].endswith("/upload"):
            now = time.monotonic()
            if len(self.uploads) == UPLOADS and now - self.uploads[0] < PER_SECONDS:
                return 429, f"more than {UPLOADS} uploads in {PER_SECONDS:g} seconds; try again later"
            self.uploads.append(now)
        return None


def latest(folder: Path) -> str:
    """The run in a folder that was trained last; where there is none, a model that comes along."""
    found = sorted(folder.glob(f"*/{MODEL}"), key=lambda file: file.stat().st_mtime)
    return str(found[-1].parent) if found else "mnist"
