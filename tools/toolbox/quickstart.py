"""From a checkout to a booted guest, and back; see tools/quickstart."""

import argparse
import hashlib
import sys
import time
from pathlib import Path

from compute.errors import MagnetarError
from tools.toolbox import agent, libvirtd, machine, quickmove
from tools.toolbox.agent import IMAGE_FILE, STATE, AgentError
from tools.toolbox.lab import LabError
from tools.toolbox.lab.lab import MOST_HOSTS
from tools.toolbox.ledger import Ledger
from tools.toolbox.libvirtd import LibvirtdError
from tools.toolbox.parts import Part, Parts

LEDGER = STATE / "quickstart.json"
IMAGE, FLAVOR, NETWORK, SERVER = "tiny", "tiny", "quick", "demo"
SUBNET = "192.168.123.0/24"
BOOT_SECONDS = 120
NEXT = """
Try next:
  tools/magnetar server list                      what runs
  tools/magnetar console log show {server}            what the guest says
  tools/magnetar server reboot {server}               or stop, start, delete; --wait follows it
  tools/magnetar explain {server}                     what was done to it, step by step
  tools/magnetar doctor                           what this host could do better
  tools/magnetar help                             everything else
  tools/quickstart --down                         take away all that this made
The agent's log is {log}.
"""
AGAIN = {
    "up": "What was made so far stays. Run tools/quickstart{hosts} again to go on from here, or "
    "tools/quickstart{hosts} --down to take it away.",
    "down": "What is not named above stays as it was. Run tools/quickstart{hosts} --down again to "
    "go on.",
}


class Quickstart:
    """The parts, in order. What is made goes into the ledger before or as soon as it exists."""

    def __init__(self, ledger: Ledger, parts: Parts) -> None:
        self.ledger, self.parts = ledger, parts
        self.server = SERVER
        self.network: str | None = None

    def up(self) -> None:
        """Everything that a new user needs; raises AgentError or LibvirtdError."""
        with self.parts.part("libvirtd") as part:
            machine.remember(self.ledger)
            machine.share_kvm(self.ledger)
            part.result = libvirtd.ensure(self.ledger)
        with self.parts.part("guest image") as part:
            part.doing = "building"
            part.result = agent.build_image()
        with self.parts.part("agent") as part:
            part.result = agent.start(self.ledger, lambda line: _doing(part, line))
            self.ledger.put("served", True)
        with self.parts.part("image") as part:
            self._upload(part)
        with self.parts.part("flavor") as part:
            self._flavor(part)
        with self.parts.part("network") as part:
            self._network(part)
        with self.parts.part("server") as part:
            self._create(part)
        with self.parts.part("guest boot") as part:
            self._await_boot(part)

    def _upload(self, part: Part) -> None:
        """Upload the image, unless the very same file was uploaded before."""
        digest = hashlib.sha256(IMAGE_FILE.read_bytes()).hexdigest()
        known = _named("image", IMAGE)
        if known and digest == self.ledger.get("digest"):
            part.result = f"{IMAGE} is there"
            return
        if known:
            agent.text("image", "delete", known["ID"])
        agent.call("image", "create", "--file", str(IMAGE_FILE), "--disk-format", "qcow2", IMAGE)
        self.ledger.put("digest", digest)
        part.result = f"uploaded {IMAGE}"

    def _flavor(self, part: Part) -> None:
        if _named("flavor", FLAVOR):
            part.result = f"{FLAVOR} is there"
            return
        size = ["--ram", "256", "--disk", "1", "--vcpus", "1"]
        agent.call("flavor", "create", *size, FLAVOR)
        part.result = f"created {FLAVOR}: 256 MiB, 1 GiB, 1 vCPU"

    def _network(self, part: Part) -> None:
        """A NAT network where the machine can; without one the guest just has no NIC."""
        if _named("network", NETWORK):
            self.network = NETWORK
            part.result = f"{NETWORK} is there"
            return
        try:
            agent.call("network", "create", "--subnet", SUBNET, "--nat", NETWORK)
        except AgentError as error:
            part.result = "none: this machine cannot make a NAT network"
            print(f"  {error}")
            return
        self.network = NETWORK
        part.result = f"created {NETWORK}: {SUBNET}, NAT"

    def _create(self, part: Part) -> None:
        """A fresh guest: an earlier one of ours goes first, one of the user's stays."""
        for server in agent.call("server", "list"):
            if server["ID"] in self.ledger.get("servers", []):
                _delete_server(self.ledger, server["ID"], part)
        taken = {server["Name"] for server in agent.call("server", "list")}
        number = 1
        while self.server in taken:
            number += 1
            self.server = f"{SERVER}-{number}"
        where = ["--network", self.network] if self.network else ["--nic", "none"]
        what = ["--image", IMAGE, "--flavor", FLAVOR, "--config-drive"]
        # Without --wait first, so that the id is known even if this is interrupted.
        made = agent.call("server", "create", *what, *where, self.server)
        self.ledger.add("servers", _identity(made))
        self._await_active(part, _identity(made))
        part.result = f"{self.server} is active"

    def _await_active(self, part: Part, server: str) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            now = agent.call("server", "show", server)
            state = now.get("vm_state", "")
            part.doing = str(now.get("task_state") or state)
            if state == "active" and not now.get("task_state"):
                return
            if state == "error" or time.monotonic() > deadline:
                raise AgentError(
                    f"the server did not become active but is {state}: {_why(now, server)}\n"
                    f"See 'tools/magnetar explain {server}' and {agent.LOG}."
                )
            time.sleep(0.2)

    def _await_boot(self, part: Part) -> None:
        """Until the guest says on its console who it is and that it is ready."""
        wanted = [f"GUEST-HOSTNAME {self.server}", "GUEST-READY"]
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            console = _console(self.server)
            marks = [line for line in console.splitlines() if "GUEST-" in line]
            part.doing = marks[-1].strip()[:60] if marks else "waiting for its console"
            if all(mark in console for mark in wanted):
                address = next((mark for mark in marks if "GUEST-IP" in mark), "").split()[1:]
                part.result = f"hostname {self.server}, address {' '.join(address) or 'none'}"
                return
            if time.monotonic() > deadline:
                raise AgentError(
                    f"the guest did not say {' and '.join(wanted)} within {BOOT_SECONDS} seconds; "
                    f"its console ends with:\n{console[-1000:]}"
                )
            time.sleep(0.3)


def down(ledger: Ledger, parts: Parts, yes: bool) -> None:
    """Take away what quickstart made, last things first; can be repeated after a failure.

    The control plane goes as a whole. When it has servers that a person made, AgentError names
    them and nothing is done, unless `yes`.
    """
    if ledger.get("served"):
        with parts.part("guests") as part:
            libvirtd.ensure(ledger)
            agent.start(ledger, lambda line: _doing(part, line))
            _ask_for_others(ledger, yes)
            part.result = _delete_all(ledger, part)
            ledger.forget("served")
    with parts.part("agent") as part:
        part.result = agent.stop(ledger)
    with parts.part("libvirtd") as part:
        part.result = libvirtd.down(ledger)
    with parts.part("network set-up") as part:
        part.result = machine.restore(ledger)
    with parts.part("files") as part:
        part.result = agent.remove_data(ledger)
        for path in (agent.CONFIG, agent.LOG, *([] if quickmove.present() else [IMAGE_FILE])):
            path.unlink(missing_ok=True)
        if not ledger.get("daemons"):
            LEDGER.unlink(missing_ok=True)
        if STATE.exists() and not any(STATE.iterdir()):
            STATE.rmdir()


def _ask_for_others(ledger: Ledger, yes: bool) -> None:
    ours = ledger.get("servers", [])
    others = [row["Name"] for row in agent.call("server", "list") if row["ID"] not in ours]
    if others and not yes:
        raise AgentError(
            f"these servers were made by hand with this control plane: {', '.join(others)}. "
            "Nothing was taken away. They would go too: repeat with --down --yes if they may."
        )


def _delete_all(ledger: Ledger, part: Part) -> str:
    servers = agent.call("server", "list")
    for server in servers:
        _delete_server(ledger, server["ID"], part)
    networks = agent.call("network", "list")
    for network in networks:
        part.doing = f"deleting network {network['Name']}"
        agent.text("network", "delete", network["ID"])
    return f"deleted {len(servers)} servers and {len(networks)} networks"


def _delete_server(ledger: Ledger, server: str, part: Part) -> None:
    part.doing = f"deleting server {server}"
    agent.text("server", "delete", "--wait", "--timeout", "60", server)
    ledger.drop("servers", server)


def _why(now: dict, server: str) -> str:
    """The server's fault; while there is none, what its operation says."""
    fault = (now.get("fault") or {}).get("message")
    if fault:
        return str(fault)
    operations = agent.call("op", "list", "--guest", server)
    said = operations[-1] if operations else {}
    return f"step {said.get('Step')}: {said.get('Message') or 'it takes long'}"


def _console(server: str) -> str:
    try:
        return agent.text("console", "log", "show", server)
    except AgentError as error:
        return f"(no console yet: {error})"


def _named(kind: str, name: str) -> dict | None:
    return next((row for row in agent.call(kind, "list") if row["Name"] == name), None)


def _identity(made: dict) -> str:
    return str(made.get("id") or made.get("ID"))


def _doing(part: Part, line: str) -> None:
    part.doing = line


def _take_away(words: argparse.Namespace, parts: Parts) -> None:
    """What the words name: the lab with --hosts, else everything."""
    if quickmove.present():
        quickmove.down(Ledger(quickmove.LEDGER), parts, words.yes)
    if not words.hosts and LEDGER.exists():
        down(Ledger(LEDGER), parts, words.yes)


def _start(words: argparse.Namespace, parts: Parts) -> str:
    """Bring it up; returns what to print at the end."""
    parts.record("install", "packages and .venv", words.installed)
    if words.hosts:
        moving = quickmove.MovingStart(Ledger(quickmove.LEDGER), parts, words.hosts)
        moving.up()
        return moving.summary()
    start = Quickstart(Ledger(LEDGER), parts)
    start.up()
    return f"\n{parts.table()}\n{NEXT.format(server=start.server, log=Path(agent.LOG))}"


def main() -> int:
    """Up, or with --down away; 0 when all of it was done."""
    parser = argparse.ArgumentParser(prog="tools/quickstart")
    parser.add_argument("--hosts", type=int, metavar="N", help="several, and a live migration")
    parser.add_argument("--down", action="store_true", help="take away what this made")
    parser.add_argument("--yes", action="store_true", help="also servers that you made")
    parser.add_argument("--installed", type=float, default=0.0, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.hosts is not None and not 2 <= words.hosts <= MOST_HOSTS:
        parser.error(f"--hosts takes 2 to {MOST_HOSTS}: a guest moves from one to another")
    parts = Parts()
    try:
        if words.down:
            _take_away(words, parts)
            print("All that quickstart made is gone; installed packages, .venv and .cache stay."
                  if not words.hosts else "Nothing of the hosts is left.")
        else:
            print(_start(words, parts))
    except (AgentError, LabError, LibvirtdError, MagnetarError, OSError) as error:
        print(f"\nquickstart: {error}", file=sys.stderr)
        hosts = f" --hosts {words.hosts}" if words.hosts else ""
        print(AGAIN["down" if words.down else "up"].format(hosts=hosts), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
