"""Run the layers of the test suite and count what happened; see tools/test."""

import argparse
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import subunit
import testtools

from tools.toolbox.lab.lab import sweep
from tools.toolbox.progress import Progress
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
TYPED = ["compute", "virt", "db", "tools"]
# No test is silent for so long, even on a machine that is ten times slower: a run that is has hung.
SILENCE_SECONDS = 1200
# A process that is aborted says where each of its threads is.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
COUNTING = threading.Lock()
# Text between the results in the stream, as the traceback of a module that cannot be imported.
NOT_A_TEST = "stdout"


class Run:
    """One run of stestr; results are counted, failures shown, while they come.

    :param folders: of tests/, whose tests are run.
    :param mode: of concurrency, for the environment of the tests.
    :param only: a regular expression that the ids of tests must match.
    :param workers: how many processes run tests.
    """

    def __init__(
        self, results: Results, progress: Progress, folders: list[str], mode: str, only: str,
        workers: int,
    ) -> None:  # fmt: skip
        self.results, self.folders, self.mode, self.workers = results, folders, mode, workers
        self._progress = progress
        self._name = f"{folders[0]} {mode}"
        self._begin = time.monotonic()
        self._counts = {"passed": 0, "failed": 0, "skipped": 0}
        self._announced: set[str] = set()
        self._said = TOP / ".cache" / f"test-{folders[0]}-{mode}.log"
        self._said.parent.mkdir(exist_ok=True)
        # Runs side by side would spoil one another's record; a killed one left half of one.
        self._repository = TOP / ".cache" / f"stestr-{folders[0]}-{mode}"
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._filter = rf"^(?=.*(?:{only})).*\btests\.(?:{'|'.join(folders)})\b"
        self._child: subprocess.Popen | None = None

    def go(self) -> None:
        """Run the tests; a run of nothing, a hang and a crash of stestr count as failures."""
        self._progress.say(f"\n== {' '.join(self.folders)} ({self.mode})")
        shutil.rmtree(self._repository, ignore_errors=True)
        self._repository.mkdir()
        command = [str(BIN / "stestr"), "--repo-url", str(self._repository)]
        if len(self.folders) == 1:  # to import all others takes time
            command += ["--test-path", f"./tests/{self.folders[0]}"]
        command += ["run", "--subunit", "--concurrency", str(self.workers)]
        self._child = child = subprocess.Popen(
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
            self.end()
            status = child.wait()
        self._progress.tell(self._name, self._counted(), end=True)
        self._judge(hung, status)

    def end(self) -> None:
        """Kill what still runs, as when a person interrupts: the workers are in the child's
        session and end with it."""
        if self._child is not None and self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)

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
            self._progress.say(f"The end of {self._said}:\n  " + "\n  ".join(lines[-60:]))
        if hung:
            self.results.fail(layer, self.mode, f"hung: silent for {SILENCE_SECONDS} seconds")
        elif status:
            self.results.fail(layer, self.mode, f"stestr ended with status {status}")
        elif not sum(self._counts.values()):
            self.results.fail(layer, self.mode, "no test was found")

    def _read(self, stream: BinaryIO) -> None:
        """In a thread: decode the stream and queue each finished test; None at the end."""
        target = testtools.CopyStreamResult(
            [testtools.StreamToDict(self._events.put), _Listener(self._events, self._progress)]
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
            self._progress.tell(self._name, self._counted())

    def _count(self, test: dict) -> None:
        if test["status"] == "exists":
            self._announced.add(test["id"])
            return
        self._announced.discard(test["id"])
        found = re.search(r"\btests\.(\w+)", test["id"])
        layer = found[1] if found else self.folders[0]
        with COUNTING:
            outcome = self.results.test(layer, self.mode, test)
        self._counts[outcome] += 1
        if outcome == "failed":
            self._progress.say(
                f"FAILED {test['id']} ({self.mode}: {test['status']})\n{details(test)}\n")

    def _counted(self) -> str:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in self._counts.items())
        return f"{counts} after {time.monotonic() - self._begin:.0f} s"


class _Listener(testtools.StreamResult):
    """Tells that the stream lives, as when a test begins, and prints text that is no result."""

    def __init__(self, events: queue.SimpleQueue, progress: Progress) -> None:
        super().__init__()
        self._events, self._progress = events, progress

    def status(self, *args: Any, **kwargs: Any) -> None:
        """Called for every event of the stream."""
        self._events.put({})
        if kwargs.get("test_id") is None and kwargs.get("file_name") == NOT_A_TEST:
            self._progress.say(bytes(kwargs["file_bytes"]).decode(errors="replace").rstrip("\n"))


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
    results, progress = Results(), Progress()
    if layer in ("style", "all") and not only:
        style(results)
    for batch in _batches(layer):
        side_by_side(
            Run(results, progress, folders, mode, only, workers)
            for folders, mode, workers in batch
        )  # fmt: skip
    return results


def _batches(layer: str) -> list[list[tuple[list[str], str, int]]]:
    """What runs side by side: (folders, mode, workers) of each run.

    Both modes at once, since then no worker has nothing left to do while another one has much; as
    many workers as cores where tests wait more than they work. The crash layer has most to do in
    eventlet: see tests/crash/share.py. The contract tests mostly wait, and what they start has a
    concurrency mode of its own: once. Integration tests wait for guests much of their time; they
    have most to do in eventlet as well.
    """
    cores = os.cpu_count() or 2
    share = max(1, cores // len(MODES))
    contract = (LAYERS["contract"], "eventlet", 1)

    def both(workers: int, *layers: str) -> list[tuple[list[str], str, int]]:
        folders = [folder for name in layers for folder in LAYERS[name]]
        return [(folders, mode, workers) for mode in MODES]

    crash = [(LAYERS["crash"], "eventlet", cores), (LAYERS["crash"], "threading", share)]
    integration = [(LAYERS["integration"], "eventlet", cores),
                   (LAYERS["integration"], "threading", share)]  # fmt: skip
    if layer == "all":
        return [both(cores, "unit", "functional"), crash, [*integration, contract]]
    whole = {"crash": crash, "integration": integration, "contract": [contract]}
    return [whole.get(layer) or both(cores, layer)] if layer in LAYERS else []


def side_by_side(runs: Iterable[Run]) -> None:
    """Let runs go on at the same time; when one of them breaks, or a person interrupts, all end."""
    runs = list(runs)
    with ThreadPoolExecutor(len(runs)) as pool:
        tasks = [pool.submit(one.go) for one in runs]
        try:
            for task in tasks:
                task.result()
        finally:
            for one in runs:
                one.end()
    sweep()  # the labs of workers that did not live to take them down


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
    print(results.lists())
    print(f"{results.table()}\n\n{time.monotonic() - begin:.0f} seconds in all")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
