"""Programs that train flaxrnn's networks, and what they share."""

import signal
import sys

# Raised inside a native module's import, KeyboardInterrupt can abort the interpreter. While `python -m` looks for the
# program, argv[0] is "-m": from then on Ctrl-C ends the process at once, until `told_to_the_user` can speak of it.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
