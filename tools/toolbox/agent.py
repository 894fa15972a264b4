"""The agent that quickstart runs: its configuration, its process, and its command line."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.toolbox.ledger import Ledger
from tools.toolbox.processes import Process

TOP = Path(__file__).resolve().parents[2]
STATE = TOP / ".state"
CONFIG = STATE / "magnetar.conf"
LOG = STATE / "magnetar.log"
IMAGE_FILE = STATE / "tiny.qcow2"
COMMAND = TOP / ".venv/bin/magnetar"
# Guests' disks are below it, so QEMU's user must be able to pass: not below somebody's home.
DATA = Path("/var/lib/magnetar-quickstart")
MARK = "made-by-quickstart-of"
SERVE_SECONDS = 90
CONFIGURATION = """# Written by tools/quickstart.
[DEFAULT]
state_path = {data}

[libvirt]
virt_type = auto
"""


class AgentError(Exception):
    """The agent or a command of it failed; the text is what the person should read."""


def start(ledger: Ledger, say: Callable[[str], None]) -> str:
    """Run `magnetar up` in the background and wait until this host is up. Returns one line.

    Raises AgentError with the end of the log when it ends or does not serve in time.
    """
    process = running(ledger)
    if process and _serving():
        return f"already running, pid {process.pid}"
    if process:
        process.stop()
    _prepare_data(ledger)
    CONFIG.write_text(CONFIGURATION.format(data=DATA))
    with LOG.open("ab") as log:
        child = subprocess.Popen(
            [str(COMMAND), "up", "--config-file", str(CONFIG)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process = Process.of(child.pid, "magnetar")
    if process is not None:
        ledger.put("agent", process.as_dict())
    deadline = time.monotonic() + SERVE_SECONDS
    while not _serving():
        said = _last_message()
        if child.poll() is not None:
            raise AgentError(f"magnetar up ended with status {child.returncode}:\n{_tail()}")
        if time.monotonic() > deadline:
            raise AgentError(f"magnetar up does not serve after {SERVE_SECONDS} s:\n{_tail()}")
        say(said)
        time.sleep(0.2)
    return f"serving, pid {child.pid}"


def running(ledger: Ledger) -> Process | None:
    """The agent's process, when the one in the ledger still lives."""
    fields = ledger.get("agent")
    process = Process(**fields) if fields else None
    return process if process and process.alive() else None


def stop(ledger: Ledger) -> str:
    """End the agent; guests go on without it. Returns one line."""
    process = running(ledger)
    if process and not process.stop(seconds=30):
        raise AgentError(f"the agent (pid {process.pid}) does not end; its log is {LOG}")
    ledger.forget("agent")
    return f"ended pid {process.pid}" if process else "did not run"


def call(*words: str, say: Callable[[str], None] = lambda line: None) -> Any:
    """Run a command of the agent that gives JSON; what it says while it works goes to `say`.

    Raises AgentError with the command's own words.
    """
    return json.loads(text(*words, "-f", "json", say=say))


def text(*words: str, say: Callable[[str], None] = lambda line: None) -> str:
    """Like call(), for commands that give plain text."""
    child = subprocess.Popen(
        [str(COMMAND), "--config-file", str(CONFIG), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ | {"COLUMNS": "200"},
    )
    assert child.stdout and child.stderr
    said = []
    for line in child.stderr:
        said.append(line)
        say(line.strip()[:60])
    answer = child.stdout.read()
    if child.wait():
        raise AgentError(f"magnetar {' '.join(words)}: {''.join(said).strip() or answer.strip()}")
    return answer


def build_image() -> str:
    """Build the guest image, unless it is there. Returns its size; raises AgentError."""
    STATE.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(TOP / "tools/build-guest"), str(IMAGE_FILE)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AgentError(done.stderr.strip() or done.stdout.strip())
    return f"{IMAGE_FILE.stat().st_size / (1 << 20):.0f} MiB"


def remove_data(ledger: Ledger) -> str:
    """Remove the data directory, if this checkout's quickstart made it. Returns one line."""
    mark = DATA / MARK
    if not DATA.exists():
        return "not there"
    if not mark.exists() or mark.read_text().strip() != str(TOP):
        return f"{DATA} was left: it has no mark of this checkout"
    for command in (
        ["find", str(DATA), "-mindepth", "1", "!", "-name", MARK, "-delete"],
        ["rm", "-r", str(DATA)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AgentError(f"{DATA} could not be removed: {done.stderr.strip()}")
    ledger.forget("data")
    return f"removed {DATA}"


def _prepare_data(ledger: Ledger) -> None:
    mark = DATA / MARK
    if DATA.exists() and (not mark.exists() or mark.read_text().strip() != str(TOP)):
        owner = mark.read_text().strip() if mark.exists() else "something else"
        raise AgentError(
            f"{DATA} belongs to {owner}. Nothing was changed. "
            "Run 'tools/quickstart --down' there, or move the directory away."
        )
    ledger.put("data", str(DATA))
    DATA.mkdir(mode=0o755, exist_ok=True)
    mark.write_text(f"{TOP}\n")
    STATE.mkdir(exist_ok=True)


def _serving() -> bool:
    """True when the control plane answers and has a host that is up and enabled."""
    try:
        hosts = call("host", "list")
    except (AgentError, ValueError):
        return False
    return any(host.get("State", "").lower() == "up" for host in hosts)


def _tail() -> str:
    return "".join(LOG.read_text(errors="replace").splitlines(keepends=True)[-15:])


def _last_message() -> str:
    """The log's last line without time, level and context, cut to a terminal's width."""
    lines = LOG.read_text(errors="replace").splitlines()
    return message_of(lines[-1]) if lines else ""


def message_of(line: str, width: int = 60) -> str:
    """What a line of the log says; a line without the log's form says all of it."""
    return re.sub(r"^\S+ \S+ \d+ [A-Z]+ \S+ \[[^]]*\] ", "", line)[:width]
