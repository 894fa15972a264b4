"""Run the layers of the test suite and count what happened; see tools/test."""

import argparse
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import subunit
import testtools

from tools.toolbox.results import Results, details

TOP = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MODES = ("eventlet", "threading")
# What each argument of tools/test runs, as folders of tests/.
LAYERS = {
    "unit": ["unit", "golden", "regressions"],
    "functional": ["functional"],
    "crash": ["crash", "simulation"],
    "integration": ["integration"],
    "contract": ["contract"],
}
TYPED = ["compute", "virt", "db"]
# No test is silent for so long, even on a machine that is ten times slower: a run that is has hung.
SILENCE_SECONDS = 1200
# A process that is aborted says where each of its threads is.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
# Text between the results in the stream, as the traceback of a module that cannot be imported.
NOT_A_TEST = "stdout"


class Run:
    """One run of stestr; results are counted, failures shown, while they come."""

    def __init__(self, results: Results, folders: list[str], mode: str, only: str) -> None:
        self.results, self.folders, self.mode = results, folders, mode
        self._begin = time.monotonic()
        self._counts = {"passed": 0, "failed": 0, "skipped": 0}
        self._announced: set[str] = set()
        self._said = TOP / ".cache" / f"test-{folders[0]}-{mode}.log"
        self._said.parent.mkdir(exist_ok=True)
        self._shown = 0.0
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._filter = rf"^(?=.*(?:{only})).*\btests\.(?:{'|'.join(folders)})\b"

    def go(self, concurrency: int) -> None:
        """Run the tests; a run of nothing, a hang and a crash of stestr count as failures."""
        print(f"\n== {' '.join(self.folders)} ({self.mode})", flush=True)
        command = [str(BIN / "stestr"), "run", "--subunit", "--concurrency", str(concurrency)]
        child = subprocess.Popen(
            [*command, self._filter],
            cwd=TOP,
            env=os.environ | ENVIRONMENT | {"MAGNETAR_CONCURRENCY": self.mode},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._said.open("wb"),
            start_new_session=True,
        )
        try:
            hung = not self._follow(child)
        finally:
            # Also when a person interrupts: the workers are in this session and end with it.
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            status = child.wait()
        self._progress(end=True)
        self._judge(hung, status)

    def _follow(self, child: subprocess.Popen) -> bool:
        """Count the child's results; False when it went silent, and was killed for it."""
        reader = threading.Thread(target=self._read, args=(child.stdout,), daemon=True)
        reader.start()
        complete = self._drain(SILENCE_SECONDS)
        if not complete:
            os.killpg(child.pid, signal.SIGABRT)
            time.sleep(2)
            os.killpg(child.pid, signal.SIGKILL)
            # What escaped from the session may keep the stream open.
            self._drain(5)
        reader.join(5)
        child.wait()
        return complete

    def _judge(self, hung: bool, status: int) -> None:
        """Count what no single test tells."""
        layer = self.folders[0]
        for test in sorted(self._announced):
            self.results.fail(layer, self.mode, f"{test}: did not run, its process ended before")
        if hung or status:
            lines = self._said.read_text(errors="replace").splitlines()
            print(f"The end of {self._said}:\n  " + "\n  ".join(lines[-60:]), flush=True)
        if hung:
            self.results.fail(layer, self.mode, f"hung: silent for {SILENCE_SECONDS} seconds")
        elif status:
            self.results.fail(layer, self.mode, f"stestr ended with status {status}")
        elif not sum(self._counts.values()):
            self.results.fail(layer, self.mode, "no test was found")

    def _read(self, stream: BinaryIO) -> None:
        """In a thread: decode the stream and queue each finished test; None at the end."""
        target = testtools.CopyStreamResult(
            [testtools.StreamToDict(self._events.put), _Listener(self._events)]
        )
        target.startTestRun()
        subunit.ByteStreamToStreamResult(stream, non_subunit_name=NOT_A_TEST).run(target)
        target.stopTestRun()
        self._events.put(None)

    def _drain(self, silence: float) -> bool:
        """Count tests until the stream ends; False when nothing came for too long."""
        while True:
            try:
                event = self._events.get(timeout=silence)
            except queue.Empty:
                return False
            if event is None:
                return True
            if event.get("id"):
                self._count(event)
            self._progress()

    def _count(self, test: dict) -> None:
        if test["status"] == "exists":
            self._announced.add(test["id"])
            return
        self._announced.discard(test["id"])
        found = re.search(r"\btests\.(\w+)", test["id"])
        layer = found[1] if found else self.folders[0]
        outcome = self.results.test(layer, self.mode, test)
        self._counts[outcome] += 1
        if outcome == "failed":
            print("\r\033[K" if sys.stdout.isatty() else "", end="")
            print(f"FAILED {test['id']} ({test['status']})\n{details(test)}\n", flush=True)

    def _progress(self, end: bool = False) -> None:
        """One line that counts up on a terminal, and every 15 seconds in a log."""
        terminal, now = sys.stdout.isatty(), time.monotonic()
        if not end and now - self._shown < (0.2 if terminal else 15):
            return
        if not end and not terminal and now - self._begin < 15:
            return
        self._shown = now
        counts = ", ".join(f"{number} {outcome}" for outcome, number in self._counts.items())
        text = f"   {counts} after {now - self._begin:.0f} s"
        print(f"\r\033[K{text}" if terminal else text, end="" if terminal and not end else "\n")
        sys.stdout.flush()


class _Listener(testtools.StreamResult):
    """Tells that the stream lives, as when a test begins, and prints text that is no result."""

    def __init__(self, events: queue.SimpleQueue) -> None:
        super().__init__()
        self._events = events

    def status(self, *args: Any, **kwargs: Any) -> None:
        """Called for every event of the stream."""
        self._events.put({})
        if kwargs.get("test_id") is None and kwargs.get("file_name") == NOT_A_TEST:
            text = bytes(kwargs["file_bytes"])
            sys.stdout.write(text.decode(errors="replace"))


def style(results: Results) -> None:
    """ruff, the direction of imports, and the types of the core."""
    typed = [folder for folder in TYPED if (TOP / folder).is_dir()]
    checks = {
        "ruff": ["ruff", "check", "."],
        "imports": ["lint-imports"],
        "types": ["mypy", "--follow-imports=silent", *typed],
    }
    print("\n== style", flush=True)
    for name, command in checks.items():
        if name == "imports" and not _imports_configured():
            results.skip("style", name, "import-linter has no configuration")
            continue
        begin = time.monotonic()
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=TOP,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        results.check("style", name, done.returncode == 0, time.monotonic() - begin)
        print(f"   {name}: {'ok' if done.returncode == 0 else 'failed'}", flush=True)
        if done.returncode:
            print(done.stdout, flush=True)


def _imports_configured() -> bool:
    return (TOP / ".importlinter").exists() or any(
        path.exists() and "importlinter" in path.read_text()
        for path in (TOP / "pyproject.toml", TOP / "setup.cfg")
    )


def run(layer: str, only: str) -> Results:
    """Run one layer, or all; `only` is a regular expression that test ids must match."""
    results = Results()
    if layer in ("style", "all") and not only:
        style(results)
    if layer == "all":
        batches = [
            LAYERS["unit"] + LAYERS["functional"] + LAYERS["crash"],
            LAYERS["integration"],
        ]
    else:
        batches = [LAYERS[layer]] if layer in LAYERS and layer != "contract" else []
    workers = os.cpu_count() or 2
    for batch in batches:
        for mode in MODES:
            Run(results, batch, mode, only).go(workers)
    if layer in ("contract", "all"):
        Run(results, LAYERS["contract"], "eventlet", only).go(1)
    return results


def main() -> int:
    """Run what the arguments say; 0 only when something ran and nothing failed."""
    parser = argparse.ArgumentParser(
        prog="tools/test", description="Run the test suite, or one layer of it."
    )
    parser.add_argument("layer", nargs="?", default="all", choices=["all", "style", *LAYERS])
    parser.add_argument("only", nargs="?", default="", metavar="REGEX", help="tests to run")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin = time.monotonic()
    results = run(arguments.layer, arguments.only)
    passed, failed, skipped = results.totals
    if not passed + failed:
        results.fail(arguments.layer, "-", "nothing ran")
        failed = 1
    if results.failures:
        print("\nFailed:\n  " + "\n  ".join(results.failures))
    if results.reasons:
        print("\nSkipped:")
        for reason, number in results.reasons.most_common():
            print(f"  {number} x {reason}")
    if results.repeats:
        print("\nRun again, and judged by the last time:")
        for why, number in results.repeats.items():
            print(f"  {number} x {why}")
    print(f"\n{results.table()}\n\n{time.monotonic() - begin:.0f} seconds in all")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
