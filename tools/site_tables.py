"""Called by MkDocs for every page: bars in a table's code.

GitHub ends a cell at every bar that isn't written `\\|`, in code as well. Python-Markdown doesn't, and
leaves the backslash in the text.
"""

import re

_CELL = re.compile(r"<t[dh]\b.*?</t[dh]>", re.DOTALL)
_CODE = re.compile(r"<code>.*?</code>", re.DOTALL)


def on_page_content(html: str, **_: object) -> str:
    """Take the backslash before each bar out of the code in tables."""

    def bars(code: re.Match[str]) -> str:
        return code.group().replace(r"\|", "|")

    return _CELL.sub(lambda cell: _CODE.sub(bars, cell.group()), html)
