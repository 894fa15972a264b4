"""What several runs that go on side by side say: how far they are, and what they found."""

import sys
import threading
import time
from typing import TextIO

SECONDS = 15  # between a run's lines in a log
BLINK = 0.2  # between changes of the line on a terminal
CLEAR = "\r\033[K"


class Progress:
    """One line that counts up on a terminal, or a line for each run now and then in a log.

    :param out: where to write, standard output unless another is given.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._terminal = self._out.isatty()
        self._texts: dict[str, str] = {}
        self._shown: dict[str, float] = {}
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """Print some lines that stay."""
        with self._lock:
            self._write(f"{CLEAR if self._terminal else ''}{text}\n")

    def tell(self, who: str, text: str, end: bool = False) -> None:
        """How far a run is, as often as it likes; ``end`` when it is the last word."""
        now = time.monotonic()
        with self._lock:
            if self._terminal and not end:
                self._texts[who] = text
                who = "all"
            before = self._shown.setdefault(who, 0 if self._terminal else now)
            if not end and now - before < (BLINK if self._terminal else SECONDS):
                return
            self._shown[who] = now
            if self._terminal and not end:
                line = "; ".join(f"{one}: {said}" for one, said in self._texts.items())
                self._write(CLEAR + line)
                return
            self._texts.pop(who, None)
            self._write(f"{CLEAR if self._terminal else ''}   {who}: {text}\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
