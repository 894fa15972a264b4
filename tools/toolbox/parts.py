"""The progress that a person sees: one line for each part, its time, a table at the end."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Part:
    """One part of the work; `result` is what the table says of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.result = "done"
        self.doing = ""
        self.seconds = 0.0


class Parts:
    """Collects parts in the order in which they were begun."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._begin = time.monotonic()

    def record(self, name: str, result: str, seconds: float) -> None:
        """Add a part that was done before this process began."""
        part = Part(name)
        part.result, part.seconds = result, seconds
        self._parts.append(part)
        self._begin -= seconds

    @contextmanager
    def part(self, name: str) -> Iterator[Part]:
        """Time the block and show that it goes on; set .result and .doing on what you get."""
        part = Part(name)
        self._parts.append(part)
        begin = time.monotonic()
        over = threading.Event()
        shower = threading.Thread(target=self._show, args=(part, begin, over), daemon=True)
        shower.start()
        try:
            yield part
        except BaseException:
            part.result = "failed"
            raise
        finally:
            part.seconds = time.monotonic() - begin
            over.set()
            shower.join()
            print(f"  {name:<12} {part.result} ({part.seconds:.1f} s)", flush=True)

    def table(self) -> str:
        """All parts with their times, and the sum."""
        rows = [(part.name, part.result, f"{part.seconds:.1f} s") for part in self._parts]
        rows.append(("total", "", f"{time.monotonic() - self._begin:.1f} s"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        line = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
        cells = [
            f"| {name:<{widths[0]}} | {result:<{widths[1]}} | {seconds:>{widths[2]}} |"
            for name, result, seconds in rows
        ]
        return "\n".join([line, *cells[:-1], line, cells[-1], line])

    @staticmethod
    def _show(part: Part, begin: float, over: threading.Event) -> None:
        """On a terminal the line counts up; in a log it is repeated every ten seconds."""
        terminal = sys.stdout.isatty()
        while not over.wait(0.2 if terminal else 10):
            text = f"  {part.name:<12} {part.doing} {time.monotonic() - begin:.0f} s"
            print(f"\r\033[K{text}" if terminal else text, end="" if terminal else "\n", flush=True)
        if terminal:
            print("\r\033[K", end="")
