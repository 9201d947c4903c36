"""A limit on the time that code which is not ours may take, in the main thread."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from onedial.core.errors import DataError


class _TookTooLong(BaseException):
    """Not an Exception, so that a task's own `except Exception` does not swallow it."""


@contextlib.contextmanager
def limit_time(seconds: float, message: str) -> Iterator[None]:
    """Raises DataError with the message when the body takes longer.

    Only in the main thread, and where no other code uses the alarm; elsewhere there is no limit. It ends Python code
    and waiting calls, not a loop inside a C library.
    """
    free = threading.current_thread() is threading.main_thread() and signal.getitimer(signal.ITIMER_REAL)[0] == 0
    if not free:
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TookTooLong:
        raise DataError(message) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
