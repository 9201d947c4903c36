"""The Hugging Face hub: finds out within seconds whether it can be reached."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.parse
import urllib.request
from functools import lru_cache
from pathlib import Path
from typing import Any

from onedial.core.errors import DataError


def choose_hub_options(path: str | Path) -> dict[str, Any]:
    """Options of `from_pretrained` for a hub name: only the local cache if the hub does not answer.

    Raises DataError if the model is in neither place.
    """
    if Path(path).exists() or _hub_answers():
        return {}
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(str(path), "config.json"), str):
        raise DataError(
            f"model {str(path)!r}: is not in the local cache, and the Hugging Face hub cannot be reached; check the "
            "network, or give the folder of a model that is on this machine (--model PATH)"
        )
    return {"local_files_only": True}


@lru_cache(maxsize=1)
def _hub_answers(timeout_s: float = 3.0) -> bool:
    """Whether the hub, or the proxy on the way to it, accepts a connection in time; False in offline mode.

    Asked once and in a thread, because the system waits much longer for a name server that does not answer.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    hub = urllib.parse.urlsplit(constants.ENDPOINT)
    proxy = urllib.request.getproxies().get(hub.scheme)
    goal = urllib.parse.urlsplit(proxy) if proxy and not urllib.request.proxy_bypass(hub.hostname or "") else hub
    answers: list[bool] = []

    def connect() -> None:
        with contextlib.suppress(OSError, ValueError):
            port = goal.port or (80 if goal.scheme == "http" else 443)
            socket.create_connection((goal.hostname or "", port), timeout=timeout_s).close()
            answers.append(True)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout_s + 0.5)
    return bool(answers)
