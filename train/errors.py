"""Errors that whoever started the program can put right."""

import contextlib
import errno
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Something is wrong with what the program was given; the message says what, and what to do."""


@contextlib.contextmanager
def told_to_the_user() -> Iterator[None]:
    """Ends the program with the message of a `UserError` alone, and exit status 2, as for a wrong option.

    So it does where a disk is full or cannot be written to.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        print(f"error: {error}: make room there, and start again with the same --workdir to go on", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
