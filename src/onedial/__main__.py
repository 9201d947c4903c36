"""`python -m onedial` is the command line."""

import os
import signal
import sys
from typing import NoReturn


def _leave(number: int, frame: object) -> NoReturn:
    """Ctrl-C while the command line itself is imported, with the line and the code that it will have."""
    os.write(2, b"onedial: interrupted\n")
    os._exit(130)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)

from onedial.cli.main import main  # noqa: E402

if signal.getsignal(signal.SIGINT) is _leave:
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
