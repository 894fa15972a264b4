"""A guest of the lab, as its tenant and somebody who looks into the hosts see it.

It counts on its console and on its disk (``TICK n``, n once more in a file), writes memory without
end and has some disk to copy, so that a move of it takes a while and any loss shows.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compute.errors import MagnetarError
from tools.toolbox.lab.host import LabHost
from tools.toolbox.lab.lab import Lab
from tools.toolbox.lab.place import TOP, LabError

IMAGE_FILE = TOP / ".cache/guest.qcow2"
IMAGE, FLAVOR, LARGER, NETWORK = "tiny", "tiny", "larger", "lab"
RAM = 192  # MiB
# What has to happen is waited for as long as a loaded machine without KVM may need.
PATIENCE = 300.0  # seconds
DISK_MIB = 16  # what the guest writes to its disk at its first boot
# Writes memory again and again; MiB on the disk once, beyond the partitions.
BUSY = f"""#!/bin/sh
[ -e /mnt/data/FILLED ] || {{
    dd if=/dev/urandom of=/dev/vda bs=1M seek=200 count={DISK_MIB} conv=fsync 2>/dev/null
    : >/mnt/data/FILLED; sync; echo GUEST-FILLED
}}
while :; do dd if=/dev/urandom of=/run/busy bs=64k count=8 2>/dev/null; usleep 500000; done
"""

# What a kernel writes when its memory, or that of the first process, is not what it wrote there.
BROKEN = re.compile(
    r"Kernel panic.*|BUG: unable to handle.*|BUG: Bad .*|Oops: .*|general protection fault.*|"
    r"invalid opcode: .*|stack-protector: .*"
)


def broken(console: str) -> str | None:
    """The line of a console that tells of broken memory; None when the guest was sound."""
    found = BROKEN.search(console)
    return found[0].strip() if found else None


def prepare(lab: Lab) -> None:
    """Image, flavors and a network for guests; what is there is left alone."""
    subprocess.run([str(TOP / "tools/build-guest"), str(IMAGE_FILE)], check=True,
                   capture_output=True)
    client = lab.client(PATIENCE)
    wanted = {f"host{number}" for number in range(1, len(lab.hosts) + 1)}
    until(lambda: {host["host"] for host in client.call("host.list") if host["state"] == "up"}
          >= wanted, PATIENCE, "all hosts are up")
    if not any(image["name"] == IMAGE for image in client.call("image.list")):
        with IMAGE_FILE.open("rb") as file:
            client.upload("image.create", file, IMAGE_FILE.stat().st_size, lambda sent: None,
                          name=IMAGE, disk_format="qcow2")
    flavors = {flavor["name"] for flavor in client.call("flavor.list")}
    for name, ram in ((FLAVOR, RAM), (LARGER, RAM + 64)):
        if name not in flavors:
            client.call("flavor.create", name=name, ram=ram, vcpus=1, disk=1)
    if not any(network["name"] == NETWORK for network in client.call("network.list")):
        client.call("network.create", name=NETWORK, subnet="192.168.77.0/24", nat=False)


def until(check: Callable[[], Any], seconds: float, what: str, every: float = 0.1) -> Any:
    """Poll until a check is true, and return what it gave. What does not answer counts as not yet.

    :raises LabError: when it did not become true in time; ``what`` says what was awaited.
    """
    deadline, why = time.monotonic() + seconds, ""
    while True:
        try:
            if found := check():
                return found
        except (MagnetarError, OSError) as error:
            why = f" ({error})"
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {seconds:g} s{why}.")
        time.sleep(every)


class LabGuest:
    """The guest ``name`` of a lab; ``uuid`` is its id."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name, self.client = lab, name, lab.client(PATIENCE)
        self.uuid = str(self.show()["id"])

    @classmethod
    def create(cls, lab: Lab, name: str, host: str | None = None) -> LabGuest:
        """Create a guest, on a host if one is named, and wait until it counts and its disk is
        filled."""
        others = [one.name for one in lab.hosts if host and one.name != host]
        client = lab.client(PATIENCE)
        for other in others:
            client.call("host.disable", host=other)
        client.call("server.create", name=name, image=IMAGE, flavor=FLAVOR, networks=[NETWORK],
                    config_drive=True, user_data=BUSY)
        guest = cls(lab, name)
        guest.settled("active")
        for other in others:
            client.call("host.enable", host=other)
        until(lambda: "GUEST-FILLED" in guest.console() and len(guest.ticks()) > 1, PATIENCE,
              f"guest {name} has booted")
        return guest

    # -- as the control plane tells it --------------------------------------------------------

    def call(self, verb: str, **args: Any) -> Any:
        """``server.VERB`` of the control plane."""
        return self.client.call(f"server.{verb}", server=self.name, **args)

    def show(self) -> dict[str, Any]:
        """Its record."""
        return self.call("show")

    def host(self) -> LabHost:
        """The host that it belongs to by its record."""
        return self.lab.host(self.show()["host"])

    def other(self) -> LabHost:
        """The next host after its own."""
        hosts = self.lab.hosts
        return hosts[hosts.index(self.host()) - 1]

    def migration(self) -> dict[str, Any]:
        """Its newest migration."""
        return self.call("migration_show")

    def settled(self, vm_state: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait until it is in a state and has no task; its record."""
        def there() -> dict[str, Any] | None:
            shown = self.show()
            if shown["vm_state"] == "error" != vm_state and shown["task_state"] is None:
                raise LabError(f"guest {self.name} is in error: {shown['fault']}")
            return shown if (shown["vm_state"], shown["task_state"]) == (vm_state, None) else None

        return until(there, seconds, f"guest {self.name} is {vm_state}")

    # -- as the hosts show it -------------------------------------------------------------------

    def console(self, host: LabHost | None = None) -> str:
        """What it wrote to its console, on the host that it is on unless another is named."""
        return (host or self.host()).console(self.uuid)

    def ticks(self, host: LabHost | None = None) -> list[int]:
        """Its counter, as it was seen on the console."""
        return [int(number) for number in re.findall(r"TICK (\d+)\s", self.console(host))]

    def copies(self) -> list[str]:
        """The hosts that have a QEMU of it."""
        return [host.name for host in self.lab.hosts if host.qemu(self.uuid) is not None]

    def counts_on(self, least: int = 0, seconds: float = PATIENCE) -> int:
        """Wait until it has counted on, beyond ``least``; the number that it has reached.

        :raises LabError: when it does not, or when its counter ever went back.
        """
        seen = max([least, *self.ticks()])
        until(lambda: max(self.ticks(), default=0) > seen, seconds,
              f"guest {self.name} counts beyond {seen}")
        ticks = self.ticks()
        back = [pair for pair in zip(ticks, ticks[1:], strict=False) if pair[1] <= pair[0]]
        if back:
            raise LabError(f"the counter of guest {self.name} went back: {back}.")
        return ticks[-1]

    def residue(self) -> list[str]:
        """What of it is on hosts that it does not belong to, or is there twice; [] is clean."""
        own, found = self.host().name, []
        for host in self.lab.hosts:
            taps = host.run("ip", "-brief", "link", "show", "type", "tun").stdout.split("\n")
            number = len([line for line in taps if line])
            expected = 1 if host.name == own and host.qemu(self.uuid) else 0
            if number != expected:
                found.append(f"{host.name} has {number} taps")
            if host.name == own:
                continue
            if host.qemu(self.uuid):
                found.append(f"{host.name} has a QEMU of it")
            domains = host.run("virsh", "--quiet", "list", "--all", "--uuid", check=False)
            if domains.returncode or self.uuid in domains.stdout:
                found.append(f"{host.name} has a domain of it {domains.stderr}")
            if not host.shared and list(Path(host.instances).glob(f"{self.uuid}*")):
                found.append(f"{host.name} has a directory of it")
        return found

    def unsettled(self) -> list[str]:
        """What still goes on, or is not as it must be, by the agents' own word; [] is clean."""
        found = []
        for host in self.lab.hosts:
            client = host.client(timeout=60)
            try:
                found += [f"{host.name}: {op['verb']} is {op['state']} at {op['step']}"
                          for op in client.call("op.list")]
                found += [f"{host.name}: {finding}" for finding in client.call("audit")["findings"]]
            finally:
                client.close()
        return found

    def clean(self, seconds: float = PATIENCE) -> None:
        """Wait until nothing is left to do, and nothing of it is where it does not belong.

        :raises LabError: with what is left.
        """
        left: list[str] = []

        def nothing() -> bool:
            left[:] = self.unsettled() or self.residue()
            return not left

        try:
            until(nothing, seconds, "clean", every=0.3)
        except LabError as error:
            raise LabError(f"left of guest {self.name}: {left or error}") from error

    def disk_is_sound(self) -> None:
        """``qemu-img check`` of its disk, which no QEMU may have open. Raises LabError."""
        path = f"/var/lib/magnetar/instances/{self.uuid}/disk"
        done = self.host().run("qemu-img", "check", path, check=False)
        if done.returncode:
            raise LabError(f"the disk of guest {self.name} is damaged: {done.stdout}{done.stderr}")
