"""The lab's networks: namespaces, bridges and links, and faults of links.

In every host: ``management`` (10.77.0.0/24), ``migration`` (10.78.0.0/24), and the bridge
``br-guests`` for guests. In the switch one bridge for each, whose ports are named host1-mgmt,
host1-migr and host1-guest.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

from tools.toolbox.lab.place import NETNS, LabError, Place

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LINKS = {"management": "mgmt", "migration": "migr", "guests": "guest"}
SUBNETS = {"management": "10.77.0", "migration": "10.78.0"}
SWITCH_ADDRESS = "10.77.0.1"
END_SECONDS = 60
# Packets of TCP reach the shaper joined to up to 64 KiB.
BURST = "256kb"
TABLE = "magnetar_lab_cut"


def address(link: str, number: int) -> str:
    """The address of host ``number`` (from 1) on "management" or "migration"."""
    return f"{SUBNETS[link]}.{10 + number}"


def make_switch(place: Place) -> None:
    """The switch's namespace with a bridge for each network; nothing to do when it is there."""
    if _complete(place.switch):
        return
    _new_namespace(place.switch)
    commands = []
    for link in LINKS:
        commands += [f"link add {link} type bridge", f"link set {link} up"]
    commands.append(f"address add {SWITCH_ADDRESS}/24 dev management")
    _batch(place.switch, commands)


def make_host(place: Place, name: str, number: int) -> None:
    """A host's namespace with its links; nothing to do when it is there."""
    namespace = place.namespace(name)
    if _complete(namespace):
        return
    _new_namespace(namespace)
    present = run("ip", "-n", place.switch, "-brief", "link").stdout
    commands, ports = ["link add br-guests type bridge", "link set br-guests up"], []
    for link, short in LINKS.items():
        port = f"{name}-{short}"
        if f"{port}@" in present:
            ports.append(f"link delete {port}")
        ports += [
            f"link add {port} type veth peer name {link} netns {namespace}",
            f"link set {port} master {link} up",
        ]
        if link in SUBNETS:
            commands.append(f"address add {address(link, number)}/24 dev {link}")
        else:
            commands.append(f"link set {link} master br-guests")
        commands.append(f"link set {link} up")
    _ip_batch(place.switch, ports)
    _batch(namespace, commands)


def remove(namespace: str) -> None:
    """End every process in a namespace, then remove it.

    :raises LabError: when a process does not end even by SIGKILL.
    """
    end_processes(namespace)
    run("ip", "netns", "delete", namespace)


def processes(namespace: str) -> list[int]:
    """The pids of all that run in a network namespace."""
    try:
        wanted = os.stat(NETNS / namespace).st_ino
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            if os.stat(entry).st_ino == wanted:
                found.append(int(entry.parts[2]))
        except OSError:  # it ended meanwhile
            continue
    return found


def end_processes(namespace: str) -> None:
    """SIGKILL all that runs in a namespace, until nothing does; raises LabError if that fails."""
    deadline = time.monotonic() + END_SECONDS
    while pids := [pid for pid in processes(namespace) if pid != os.getpid()]:
        if time.monotonic() > deadline:
            raise LabError(
                f"processes {pids} in {namespace} do not end, even by SIGKILL. The rest of the "
                "lab stays until they do. See what they wait for in /proc/PID/stack, then repeat."
            )
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def link_down(place: Place, host: str, link: str) -> None:
    """Pull a cable: both ends lose carrier."""
    _ip_batch(place.switch, [f"link set {host}-{LINKS[link]} down"])


def link_up(place: Place, host: str, link: str) -> None:
    """Plug it in again."""
    _ip_batch(place.switch, [f"link set {host}-{LINKS[link]} up"])


def drop(place: Place, host: str, link: str) -> None:
    """Lose every packet of a link without a sign of it."""
    rules = f"""
table netdev {TABLE}_{link} {{}}
delete table netdev {TABLE}_{link}
table netdev {TABLE}_{link} {{
    chain in {{ type filter hook ingress device {link} priority 0; policy drop; }}
    chain out {{ type filter hook egress device {link} priority 0; policy drop; }}
}}"""
    _must("nsenter", f"--net={NETNS / place.namespace(host)}", "nft", "-f", "-", text=rules)


def undrop(place: Place, host: str, link: str) -> None:
    """Lose nothing any more; no error when nothing was lost."""
    enter = ["nsenter", f"--net={NETNS / place.namespace(host)}", "nft"]
    run(*enter, "delete", "table", "netdev", f"{TABLE}_{link}")


def limit(place: Place, host: str, link: str, mbit: float | None) -> None:
    """Let no more than ``mbit`` megabits a second pass in each direction; None takes it off."""
    ends = ((place.namespace(host), link), (place.switch, f"{host}-{LINKS[link]}"))
    for namespace, device in ends:
        if mbit is None:
            run("tc", "-n", namespace, "qdisc", "delete", "dev", device, "root")
            continue
        shape = ["tbf", "rate", f"{mbit:g}mbit", "burst", BURST, "latency", "100ms"]
        _must("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *shape)


def run(*command: str, text: str = "") -> subprocess.CompletedProcess:
    """Run a command of the system and return what it said; its failure is not an error."""
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, env={"PATH": PATH}
    )


def _must(*command: str, text: str = "") -> None:
    done = run(*command, text=text)
    if done.returncode:
        raise LabError(f"'{' '.join(command)}' failed: {done.stderr.strip()}")


def _complete(namespace: str) -> bool:
    """Whether it was made to its end: its loopback goes up last."""
    return "UP" in run("ip", "-n", namespace, "-brief", "link", "show", "lo", "up").stdout


def _new_namespace(namespace: str) -> None:
    if (NETNS / namespace).exists():
        remove(namespace)
    _must("ip", "netns", "add", namespace)


def _batch(namespace: str, commands: list[str]) -> None:
    _ip_batch(namespace, [*commands, "link set lo up"])


def _ip_batch(namespace: str, commands: list[str]) -> None:
    _must("ip", "-n", namespace, "-batch", "-", text="\n".join(commands) + "\n")
