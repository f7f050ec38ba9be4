"""Errors that whoever started the program can put right."""

import contextlib
import errno
import signal
import sys
from collections.abc import Iterator

REMEDIES = {
    errno.ENOSPC: "make room there, and start again with the same --workdir to go on",
    errno.EDQUOT: "make room there, and start again with the same --workdir to go on",
    errno.EROFS: "pass a folder that can be written",
    errno.EACCES: "allow it to be read and written, or pass another folder",
    errno.EPERM: "allow it to be read and written, or pass another folder",
}
"""What to do about an error of the operating system, where the user can do something."""


class UserError(Exception):
    """Something is wrong with what the program was given; the message says what, and what to do."""


@contextlib.contextmanager
def told_to_the_user() -> Iterator[None]:
    """Ends the program with the message of a `UserError` alone, and exit status 2, as for a wrong option.

    So it does where a disk is full, or a file must not be read or written.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as `train/__init__.py` leaves it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        print(f"error: {error}: {REMEDIES[error.errno]}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
