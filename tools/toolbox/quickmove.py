"""From a checkout to a guest that moves between hosts while it runs; see tools/quickstart."""

from __future__ import annotations

import base64
import hashlib
import sys
import time
from typing import Any

from compute.errors import MagnetarError
from control.cli import watch
from control.cli.client import Client
from control.cli.columns import size_text
from tools.toolbox import agent
from tools.toolbox.agent import STATE, AgentError
from tools.toolbox.lab import Lab
from tools.toolbox.lab.lab import all_labs
from tools.toolbox.ledger import Ledger
from tools.toolbox.parts import Part, Parts
from tools.toolbox.results import aligned
from tools.toolbox.ticks import Ticks

LAB = "quickstart"
CONFIG = STATE / "lab.conf"
LEDGER = STATE / "lab.json"
IMAGE, FLAVOR, NETWORK, SERVER = "tiny", "tiny", "guests", "demo"
BRIDGE, SUBNET = "br-guests", "192.168.123.0/24"
LINK_MBIT = 300
WAIT_SECONDS = 120
LOOK_SECONDS = 0.4
SOME_TICKS = 3
LOAD = """#!/bin/sh
# Writes 8 MiB of memory each second, other bytes each time, so that they are to be sent again.
mkdir -p /run/load && mount -t tmpfs none /run/load && cd /run/load || exit
cat /bin/busybox /bin/busybox /bin/busybox /bin/busybox | head -c 8388608 >a
tail -c +2 a >b
while :; do
    for from in a b; do dd if=$from of=c bs=64k conv=notrunc 2>/dev/null; sleep 1; done
done
"""
NEXT = """
Try next:
  {magnetar} server migrate --live-migration --wait {server}    back again
  {magnetar} migration watch {server}    in another terminal meanwhile
  {magnetar} plan live-migrate {server}    what would happen, and why
  {magnetar} server suspend {server}    to disk, and back with server resume
  {magnetar} host drain {host} --wait    all servers leave a host
  tools/lab --name {lab} exec {host} -- magnetar op list --all    what its agent did
  tools/lab --name {lab} exec {host} -- virsh list --all    what its libvirt has
  tools/quickstart --hosts {hosts} --down    take all of it away
The control plane's socket is {socket}.
Logs are below {logs}.
"""


class MovingStart:
    """The parts, in order; each can be repeated.

    :param hosts: how many, at least 2.
    """

    def __init__(self, ledger: Ledger, parts: Parts, hosts: int) -> None:
        self.ledger, self.parts, self.hosts = ledger, parts, hosts
        self.lab = Lab(LAB)
        self.server, self.guest, self.source, self.destination = SERVER, "", "", ""
        self.before, self.began, self.total = 0, 0.0, 0.0
        self._client: Client | None = None
        self.seen: list[tuple[str, str]] = []

    @property
    def client(self) -> Client:
        """The lab's control plane."""
        if self._client is None:
            self._client = self.lab.client()
        return self._client

    def up(self) -> None:
        """All of it; raises AgentError, LabError or MagnetarError."""
        with self.parts.part("guest image") as part:
            part.doing = "building"
            part.result = agent.build_image()
        with self.parts.part("hosts") as part:
            self._hosts(part)
        with self.parts.part("image") as part:
            self._upload(part)
        with self.parts.part("network") as part:
            self._network(part)
        with self.parts.part("server") as part:
            self._create(part)
        logs = {host.name: host.instances / self.guest / "console.log" for host in self.lab.hosts}
        with Ticks(logs) as ticks:
            with self.parts.part("guest boot") as part:
                self._await_boot(part, ticks)
            with self.parts.part("plan") as part:
                self._plan(part)
            with self.parts.part("migration") as part:
                self._migrate(part, ticks)
            with self.parts.part("afterwards") as part:
                self._afterwards(part, ticks)

    def _hosts(self, part: Part) -> None:
        part.doing = f"starting {self.hosts} hosts with libvirt and an agent each"
        self.ledger.put("lab", LAB)
        self.lab.up(self.hosts)
        CONFIG.write_text(
            f"# Written by tools/quickstart.\n[DEFAULT]\nsocket = {self.lab.control.socket}\n")
        deadline = time.monotonic() + WAIT_SECONDS
        while any(row["state"] != "up" for row in self.client.call("host.list")):
            if time.monotonic() > deadline:
                raise AgentError(f"not every host is up; logs are below {self.lab.place.logs}")
            time.sleep(0.2)
        names = ", ".join(host.name for host in self.lab.hosts)
        part.result = f"{names}, RabbitMQ, control plane"

    def _upload(self, part: Part) -> None:
        """Image and flavor, unless they are there."""
        digest = hashlib.sha256(agent.IMAGE_FILE.read_bytes()).hexdigest()
        names = {row["name"]: row["id"] for row in self.client.call("image.list")}
        if IMAGE in names and digest == self.ledger.get("digest"):
            part.result = f"{IMAGE} is there"
        else:
            if IMAGE in names:
                self.client.call("image.delete", image=names[IMAGE])
            with agent.IMAGE_FILE.open("rb") as file:
                size = agent.IMAGE_FILE.stat().st_size
                self.client.upload("image.create", file, size, lambda sent: None,
                                   name=IMAGE, disk_format="qcow2")
            self.ledger.put("digest", digest)
            part.result = f"uploaded {IMAGE}: {size_text(size)}"
        if FLAVOR not in {row["name"] for row in self.client.call("flavor.list")}:
            self.client.call("flavor.create", name=FLAVOR, ram=256, disk=1, vcpus=1)

    def _network(self, part: Part) -> None:
        if NETWORK in {row["name"] for row in self.client.call("network.list")}:
            part.result = f"{NETWORK} is there"
            return
        self.client.call("network.create", name=NETWORK, bridge=BRIDGE, subnet=SUBNET)
        part.result = f"created {NETWORK}: {SUBNET} on {BRIDGE} of each host"

    def _create(self, part: Part) -> None:
        """The guest of an earlier run if it is fit to move, else a new one."""
        names = {row["name"]: row for row in self.client.call("server.list")}
        mine = self.ledger.get("server")
        row = next((row for row in names.values() if row["id"] == mine), None)
        if row is not None and row["status"] != "ACTIVE":
            part.doing = f"deleting {row['name']}, which is {row['status']}"
            self._delete(row)
            del names[row["name"]]
            row = None
        if row is None:
            self.server = next(name for name in _names() if name not in names)
            row = self.client.call(
                "server.create", name=self.server, image=IMAGE, flavor=FLAVOR, networks=[NETWORK],
                config_drive=True, user_data=base64.b64encode(LOAD.encode()).decode())
            self.ledger.put("server", row["id"])
        self.server, self.guest = row["name"], row["id"]
        now = self._settled(part, "active")
        self.source = now["host"]
        part.result = f"{self.server} is active on {self.source}"

    def _delete(self, row: dict[str, Any]) -> None:
        self.client.call("server.delete", server=row["id"])
        deadline = time.monotonic() + WAIT_SECONDS
        while row["id"] in {one["id"] for one in self.client.call("server.list")}:
            if time.monotonic() > deadline:
                raise AgentError(f"server {row['name']} was not deleted in {WAIT_SECONDS} s.")
            time.sleep(0.2)

    def _settled(self, part: Part, wanted: str) -> dict[str, Any]:
        """The server once it is in a state and nothing goes on with it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            now = self.client.call("server.show", server=self.guest)
            part.doing = str(now["task_state"] or now["vm_state"])
            if now["vm_state"] == wanted and not now["task_state"]:
                return now
            if now["vm_state"] == "error" or time.monotonic() > deadline:
                fault = (now.get("fault") or {}).get("message")
                raise AgentError(f"server {self.server} is not {wanted} but {now['vm_state']}: "
                                 f"{fault}. Logs are below {self.lab.place.directory}.")
            time.sleep(0.2)

    def _await_boot(self, part: Part, ticks: Ticks) -> None:
        """Until the guest counts; its counter is what is watched from here on."""
        part.doing = "waiting for its console"
        if not ticks.wait(SOME_TICKS, WAIT_SECONDS):
            console = self.lab.host(self.source).console(self.guest)[-1000:]
            raise AgentError(f"the guest did not count on its console within {WAIT_SECONDS} s; it "
                             f"ends with:\n{console}")
        part.result = f"counts on its console, at {ticks.last}"

    def _plan(self, part: Part) -> None:
        part.doing = "asking both hosts, measuring how fast it writes memory"
        for host in self.lab.hosts:
            host.limit("migration", LINK_MBIT)
        plan = self.client.call("server.plan_live_migrate", server=self.guest)
        checks = plan["checks"]
        fine = sum(check["ok"] is True for check in checks)
        part.result = f"to {plan['destination']}: {plan['verdict']}"
        copies = f"{size_text(plan['copy_bytes'])} of {', '.join(plan['copies'])}" \
            if plan["copies"] else "no disk"
        rate = size_text(plan["dirty_rate"] or 0)
        _show(f"Plan for {self.server}, {plan['source']} to {plan['destination']}: "
              f"{plan['verdict']}. {plan['strategy']}: {plan['reason']}",
              f"{size_text(plan['memory_bytes'])} of memory, which the guest writes at {rate}/s; "
              f"{copies} to copy. {fine} of {len(checks)} checks are fine.",
              *(f"[{'no' if check['ok'] is False else 'unknown'}] {check['name']}: "
                f"{check['found']}" for check in checks if not check["ok"]))
        _show(f"The migration network is held at {LINK_MBIT} Mbit/s, so that there is something "
              "to watch.")

    def _migrate(self, part: Part, ticks: Ticks) -> None:
        """Move it, showing each look at the progress."""
        self.before, began = ticks.last, time.monotonic()
        self.began = began - 2  # so that at least one gap between two numbers is before it
        self.client.call("server.live_migrate", server=self.guest)
        while True:
            now = self.client.call("server.migration_progress", server=self.guest)
            part.doing = watch.described(now)
            if watch.over(now):
                break
            _show(f"{time.monotonic() - began:5.1f} s  {part.doing}")
            time.sleep(LOOK_SECONDS)
        if now["status"] != "completed":
            raise watch.failed(now)
        self.total = time.monotonic() - began
        part.result = f"{self.source} to {now['dest_compute']}"
        self.destination = now["dest_compute"]

    def _afterwards(self, part: Part, ticks: Ticks) -> None:
        """The guest goes on there; what was seen of its counter, and what QEMU says."""
        part.doing = "watching it go on counting"
        self._settled(part, "active")
        ticks.wait(SOME_TICKS, WAIT_SECONDS)
        for host in self.lab.hosts:
            host.limit("migration", None)
        if ticks.backwards or ticks.seen[-1].host != self.destination:
            raise AgentError(f"the guest's counter is not right: {ticks.backwards or ticks.seen}")
        part.result = f"{self.server} runs on {self.destination}"
        job = self._job()
        longest, usual = ticks.gaps(self.began)
        skipped = ticks.skipped()
        self.seen = [
            ("counter before and after", f"{self.before} on {self.source}, {ticks.last} on "
             f"{self.destination}; " + (f"{skipped} numbers were not seen" if skipped
                                        else "each number once, in order")),
            ("pause, as QEMU measured it", f"{job.get('downtime', 0)} ms"),
            ("pause, as its console shows it", f"{longest:.2f} s between two numbers, usually "
             f"{usual:.2f} s"),
            ("sent", f"{size_text(job.get('memory_processed', 0))} of memory in "
             f"{job.get('memory_iteration', '?')} passes, "
             f"{size_text(job.get('disk_processed', 0))} of disk"),
            ("request to completed", f"{self.total:.1f} s"),
        ]

    def _job(self) -> dict[str, Any]:
        """libvirt's statistics of the migration that brought the guest."""
        import libvirt

        connection = self.lab.host(self.destination).libvirt()
        try:
            domain = connection.lookupByUUIDString(self.guest)
            return domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        finally:
            connection.close()

    def summary(self) -> str:
        """What a person reads at the end."""
        magnetar = "tools/magnetar"
        if agent.CONFIG.exists():  # of a quickstart without --hosts, which comes first
            magnetar = f"MAGNETAR_CONFIG={CONFIG.relative_to(agent.TOP)} tools/magnetar"
        text = NEXT.format(
            magnetar=magnetar, server=self.server, host=self.destination, lab=LAB,
            hosts=self.hosts, socket=self.lab.control.socket, logs=self.lab.place.directory)
        return f"\n{self.parts.table()}\n\n{aligned(self.seen, left=2)}\n{text}"


def down(ledger: Ledger, parts: Parts, yes: bool) -> None:
    """Take the lab away; nothing is done when it has servers that a person made, unless `yes`.

    :raises AgentError: which names them.
    """
    lab = Lab(LAB)
    with parts.part("hosts") as part:
        if not yes:
            _ask_for_others(lab, ledger)
        part.doing = "ending guests, agents and daemons"
        names = ", ".join(host.name for host in lab.hosts)
        lab.down()
        part.result = f"{names} are gone" if names else "were not there"
    for path in (CONFIG, LEDGER):
        path.unlink(missing_ok=True)
    if not agent.CONFIG.exists():
        agent.IMAGE_FILE.unlink(missing_ok=True)
    if STATE.exists() and not any(STATE.iterdir()):
        STATE.rmdir()


def present() -> bool:
    """Whether there is something to take away."""
    return LEDGER.exists() or any(lab.place.name == LAB for lab in all_labs())


def _ask_for_others(lab: Lab, ledger: Ledger) -> None:
    try:
        servers = lab.client(timeout=10).call("server.list")
    except MagnetarError:
        return  # it does not run: nobody can have made anything since
    others = [row["name"] for row in servers if row["id"] != ledger.get("server")]
    if others:
        raise AgentError(
            f"these servers were made by hand on the lab's hosts: {', '.join(others)}. Nothing was "
            "taken away. They would go too: repeat with --down --yes if they may."
        )


def _names() -> Any:
    """demo, demo-2, demo-3 and so on."""
    yield SERVER
    number = 2
    while True:
        yield f"{SERVER}-{number}"
        number += 1


def _show(*lines: str) -> None:
    """Lines that stay, above the one that tells what goes on."""
    clear = "\r\033[K" if sys.stdout.isatty() else ""
    for line in lines:
        print(f"{clear}    {line}", flush=True)
