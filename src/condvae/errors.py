"""The one exception that is shown to people as a sentence instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can put right: a wrong flag, a damaged file, a full disk.

    The message is one line that names the file or the flag, says what is wrong and what to do.
    The command line prints it and exits with code 2.
    """
