"""Verbs of a guest that stays on its host, beside the bare libvirt calls that each needs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import libvirt

from tools.toolbox.bench.bare import BareGuest, timed
from tools.toolbox.bench.stage import Stage

NETWORK = "bench"
NIC = """<interface type='network'><mac address='52:54:00:be:ec:01'/>
<source network='{}'/><model type='virtio'/></interface>"""
LOOK_SECONDS = 0.01
Both = Callable[[str, Callable[[], float], Callable[[], float], str], None]


class BareLife(BareGuest):
    """What an operator would do by hand with the same guest, its disk and its image."""

    @property
    def home(self) -> Path:
        """The directory of its disks."""
        return self.disk.parent

    @property
    def disk(self) -> Path:
        """Its root disk, as this machine sees it."""
        return self.host.instances / "bare" / "disk"

    def snapshot(self) -> float:
        """virDomainBlockCopy to a file that stands by itself, and its end."""
        copy = self.disk.with_name("copied")
        target = f"<disk type='file'><driver type='qcow2'/><source file='{self._seen(copy)}'/>" \
                 "</disk>"

        def work() -> None:
            domain = self.domain
            domain.blockCopy("vda", target, flags=libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
            until(lambda: (job := domain.blockJobInfo("vda", 0)) and job["cur"] == job["end"] > 0)
            domain.blockJobAbort("vda", 0)

        seconds = timed(work)
        copy.unlink()
        return seconds

    def rescue(self) -> float:
        """Shut down, an overlay, a definition that boots from it, start."""
        def work() -> None:
            self._off()
            self._overlay("disk.rescue")
            self._link.defineXML(self.xml.replace("/disk'", "/disk.rescue'")).create()

        return timed(work)

    def unrescue(self) -> float:
        """Stop, the former definition, start."""
        def work() -> None:
            self.domain.destroy()
            self._link.defineXML(self.xml).create()
            (self.home / "disk.rescue").unlink()

        return timed(work)

    def rebuild(self) -> float:
        """Stop, a new overlay, define, start."""
        def work() -> None:
            self.domain.destroy()
            self.disk.unlink()
            self._overlay("disk")
            self._link.defineXML(self.xml).create()

        return timed(work)

    def shelve(self) -> float:
        """Shut down, a copy of the disk that stands by itself, undefine, remove the disks."""
        def work() -> None:
            self._off()
            self.host.run("qemu-img", "convert", "-O", "qcow2", self._seen(self.disk),
                          self._seen(self.kept))
            self.domain.undefine()
            shutil.rmtree(self.home)

        return timed(work)

    def unshelve(self) -> float:
        """A disk from that copy, define, start."""
        def work() -> None:
            self.home.mkdir()
            shutil.copy(self.kept, self.disk)
            (self.home / "disk.config").write_bytes(self._drive)
            (self.home / "console.log").touch()
            self._link.defineXML(self.xml).create()

        seconds = timed(work)
        self.kept.unlink()
        return seconds

    def soft_delete(self) -> float:
        """virDomainDestroy."""
        return timed(self.domain.destroy)

    def restore(self) -> float:
        """virDomainCreate."""
        return timed(self.domain.create)

    def attach(self, network: str) -> float:
        """virDomainAttachDeviceFlags, for the guest that runs and for its definition."""
        return timed(lambda: self.domain.attachDeviceFlags(NIC.format(network), BOTH))

    def detach(self, network: str) -> float:
        """virDomainDetachDeviceFlags, until the guest let it go."""
        def work() -> None:
            domain = self.domain
            domain.detachDeviceFlags(NIC.format(network), BOTH)
            until(lambda: "52:54:00:be:ec:01" not in domain.XMLDesc())

        return timed(work)

    @property
    def kept(self) -> Path:
        """Where the disk of a shelved guest is kept."""
        return self.host.instances / "bare.image"

    def _seen(self, path: Path) -> str:
        """A path as the host sees it."""
        return f"/var/lib/magnetar/instances/{path.relative_to(self.host.instances)}"

    def _overlay(self, name: str) -> None:
        self.host.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", self.base,
                      self._seen(self.home / name), "1G")


BOTH = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG


def round_of_life(on: Stage, guest: str, bare: BareLife, both: Both,
                  awake: Callable[[], None]) -> None:
    """Each verb once; both guests are as before afterwards, and on the same host."""
    def do(method: str, state: str, **args: object) -> Callable[[], float]:
        return lambda: on.timed(f"server.{method}", guest, state, **args)

    both("snapshot", do("image_create", "active", name="bench"), bare.snapshot,
         "blockCopy, blockJobAbort; ours hands the copy to the image store as well")
    forget_images(on)
    _nics(on, guest, bare, both)
    both("rescue", do("rescue", "rescued"), bare.rescue, "shutdown, overlay, defineXML, create")
    both("unrescue", do("unrescue", "active"), bare.unrescue, "destroy, defineXML, create")
    awake()
    both("rebuild", do("rebuild", "active", image="tiny"), bare.rebuild,
         "destroy, overlay, defineXML, create")
    awake()
    both("shelve", do("shelve", "shelved_offloaded"), bare.shelve,
         "shutdown, qemu-img convert, undefine")
    both("unshelve", do("unshelve", "active"), bare.unshelve, "copy of the disk, defineXML, create")
    both("soft delete", do("delete", "soft-delete"), bare.soft_delete, "destroy")
    both("restore", do("restore", "active"), bare.restore, "create")
    awake()


def _nics(on: Stage, guest: str, bare: BareLife, both: Both) -> None:
    """A NIC comes and goes."""
    inner = on.client.call("network.show", network=NETWORK)["source"]
    port: list[str] = []

    def attach() -> float:
        began = time.monotonic()
        port.append(on.client.call("server.add_network", server=guest, network=NETWORK)["id"])
        return time.monotonic() - began

    def detach() -> float:
        return on.timed("server.remove_port", guest, "active", port=port.pop())

    both("attach a NIC", attach, lambda: bare.attach(inner), "attachDeviceFlags")
    both("detach a NIC", detach, lambda: bare.detach(inner), "detachDeviceFlags, device gone")


def network(on: Stage) -> None:
    """A network for the NICs that come and go."""
    if NETWORK not in {one["name"] for one in on.client.call("network.list")}:
        on.client.call("network.create", name=NETWORK, subnet="192.168.79.0/24", nat=False)


def forget_images(on: Stage) -> None:
    """Remove the images that were measured."""
    for image in on.client.call("image.list"):
        if image["name"] == "bench":
            on.client.call("image.delete", image=image["id"])


def until(check: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something is so; raises RuntimeError when it is not in time."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise RuntimeError(f"bare libvirt did not get ready in {seconds:g} s")
        time.sleep(LOOK_SECONDS)
