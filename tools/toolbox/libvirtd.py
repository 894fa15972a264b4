"""See that libvirtd and virtlogd run on this machine, and end those that we started.

Whatever already answers on qemu:///system is used as it is. Else systemd is asked where it
runs, and else the daemons are started by hand, with the operator's own configuration files.
"""

import socket
import subprocess
import time
from pathlib import Path

from tools.toolbox.ledger import Ledger
from tools.toolbox.processes import Process

URI = "qemu:///system"
START_SECONDS = 60
# In the order of starting. virtlogd keeps the guests' console logs.
DAEMONS = {"virtlogd": "/run/libvirt/virtlogd-sock", "libvirtd": "/run/libvirt/libvirt-sock"}


class LibvirtdError(Exception):
    """libvirtd could not be brought up; the text says what to look at."""


def ensure(ledger: Ledger) -> str:
    """Make libvirtd answer; the daemons started for it go into the ledger ("daemons").

    Returns one line that says what was done. Raises LibvirtdError.
    """
    if answers():
        return "already running"
    if Path("/run/systemd/system").exists():
        done = _run("systemctl", "start", "libvirtd")
        if done.returncode:
            raise LibvirtdError(
                f"systemctl start libvirtd failed: {done.stderr.strip()}. libvirtd does not run. "
                "Look at 'journalctl -u libvirtd', then run this again."
            )
        return _wait("started by systemd")
    started = [name for name, path in DAEMONS.items() if _start(name, path, ledger)]
    return _wait(f"started {' and '.join(started)}")


def down(ledger: Ledger) -> str:
    """End the daemons in the ledger that still are the processes that we started.

    They stay while guests run that somebody else put there. Returns one line.
    """
    if not ledger.get("daemons"):
        return "was not started by us"
    guests = _run("virsh", "-c", URI, "list", "--name").stdout.split()
    if guests:
        return f"left running: guests of others use it ({', '.join(guests)})"
    ended = []
    for fields in reversed(ledger.get("daemons")):
        process = Process(**fields)
        if process.alive() and process.stop(seconds=20):
            ended.append(process.name)
        ledger.drop("daemons", fields)
    ledger.forget("daemons")
    return f"ended {' and '.join(ended)}" if ended else "had ended already"


def answers() -> bool:
    """True when a connection to the system libvirtd can be opened."""
    return _run("virsh", "-c", URI, "uri").returncode == 0


def _start(name: str, path: str, ledger: Ledger) -> bool:
    """Start one daemon unless its socket answers; False when nothing had to be done."""
    if _listening(path):
        return False
    pid_file = Path(f"/run/{name}.pid")
    Path("/run/libvirt").mkdir(exist_ok=True)
    done = _run(name, "--daemon", "--pid-file", str(pid_file))
    if done.returncode:
        raise LibvirtdError(
            f"{name} did not start: {done.stderr.strip()}. Try '{name} --verbose' to see why."
        )
    process = Process.of(int(pid_file.read_text()), name)
    if process is None:
        raise LibvirtdError(f"{name} ended at once. Try '{name} --verbose' to see why.")
    ledger.add("daemons", process.as_dict())
    return True


def _wait(how: str) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not answers():
        if time.monotonic() > deadline:
            raise LibvirtdError(
                f"libvirtd was {how} but does not answer on {URI} after {START_SECONDS} seconds. "
                f"Try 'virsh -c {URI} uri' and 'libvirtd --verbose' to see why."
            )
        time.sleep(0.1)
    return how


def _listening(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return False
        return True


def _run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120
    )
