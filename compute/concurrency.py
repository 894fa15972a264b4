"""The only file that knows whether green or native threads run the agent.

``setup()`` has to be the first thing that any entry point calls, before other imports. The choice
is made by the environment variable ``MAGNETAR_CONCURRENCY`` (``eventlet`` or ``threading``), else
by ``[DEFAULT] concurrency`` in the configuration file named on the command line, else eventlet.
All other code uses threading, queue, time and concurrent.futures of the standard library.
"""

from __future__ import annotations

import configparser
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
MODES = ("eventlet", "threading")
_mode: str | None = None


def _configured(argv: Sequence[str]) -> str | None:
    for index, word in enumerate(argv):
        path = None
        if word == "--config-file" and index + 1 < len(argv):
            path = argv[index + 1]
        elif word.startswith("--config-file="):
            path = word.split("=", 1)[1]
        if path:
            parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
            try:
                parser.read(path)
            except configparser.Error:
                continue  # oslo.config reports it properly a moment later
            if "concurrency" in parser.defaults():
                return parser.defaults()["concurrency"]
    return None


def setup(argv: Sequence[str] | None = None) -> str:
    """Choose the mode, and patch the standard library if it is eventlet. Returns the mode."""
    global _mode
    if _mode is None:
        wanted = os.environ.get("MAGNETAR_CONCURRENCY") or _configured(argv or sys.argv)
        wanted = (wanted or "eventlet").strip()
        if wanted not in MODES:
            raise SystemExit(
                f"concurrency = {wanted} is not known; nothing was started. "
                f"Set it to one of: {', '.join(MODES)}."
            )
        if wanted == "eventlet":
            os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
            # Known and decided: the mode is an option, and threading is the other.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="eventlet")
            warnings.filterwarnings("ignore", message="(?s).*Eventlet is deprecated")
            import eventlet

            eventlet.monkey_patch()
        _mode = wanted
    return _mode


def mode() -> str:
    """The mode in force; ``threading`` when setup() was never called (tests, small tools)."""
    return _mode or "threading"


def native(func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a call that blocks in C (libvirt, a large read) without blocking green threads.

    With native threads the call simply runs here.
    """
    if mode() == "eventlet":
        from eventlet import tpool

        return tpool.execute(func, *args, **kwargs)
    return func(*args, **kwargs)


def native_module(name: str) -> Any:
    """A standard library module as it was before patching; for threads that must be native."""
    if mode() == "eventlet":
        from eventlet import patcher

        return patcher.original(name)
    return __import__(name)
