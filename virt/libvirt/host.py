"""The host itself: what it has, and what its file system can do."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import tempfile
from typing import Any

import libvirt
from oslo_log import log

from compute.conf.libvirt import OTHER_TYPES
from compute.errors import Failed, Refused, Unknown
from compute.model.guest import HostFacts
from virt.libvirt import abilities, caps
from virt.libvirt.abilities import Abilities
from virt.libvirt.caps import HostCaps, Support
from virt.libvirt.connection import Connection

LOG = log.getLogger(__name__)
HVM = "hvm"


class Host:
    """What libvirt says of its host; what cannot change while connected is asked once."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._cached: tuple[int, HostCaps] | None = None
        self._abilities: dict[tuple[int, str], Abilities] = {}

    def caps(self) -> HostCaps:
        """The host's capabilities, read once for each connection; again while libvirt offers no
        machine type, as where it could not examine QEMU yet. Raises Unknown."""
        epoch = self._connection.epoch
        if self._cached is None or self._cached[0] != epoch:
            text = self._connection.ask("read_capabilities", libvirt.virConnect.getCapabilities)
            found = caps.parse(text)
            if not any(support.machines for support in found.support.values()):
                return found
            self._cached = (epoch, found)
        return self._cached[1]

    def abilities(self, virt_type: str) -> Abilities:
        """What guests can have here, asked once for each connection. Raises Unknown."""
        key = (self._connection.epoch, virt_type)
        if key not in self._abilities:
            ask, connect = self._connection.ask, libvirt.virConnect
            support = self.caps().native()
            text = ask(
                "read_domain_capabilities", connect.getDomainCapabilities,
                support.emulator, support.arch, None, virt_type,
            )  # fmt: skip
            found = abilities.parse(
                text, self._flags(support, virt_type, text),
                ask("read_libvirt_version", connect.getLibVersion),
                ask("read_hypervisor_version", connect.getVersion),
            )  # fmt: skip
            self._abilities = {key: found}
        return self._abilities[key]

    def known_abilities(self, virt_type: str) -> Abilities | None:
        """The same if they are known already; asks nothing."""
        return self._abilities.get((self._connection.epoch, virt_type))

    def _flags(self, support: Support, virt_type: str, text: str) -> frozenset[str]:
        """The CPU flags that guests can have: those of host-model, spelled out by libvirt; empty
        where it cannot tell, so that nothing is promised."""
        model = abilities.host_model(text)
        if model is None:
            return frozenset()
        try:
            spelled = self._connection.ask(
                "spell_out_cpu", libvirt.virConnect.baselineHypervisorCPU, support.emulator,
                support.arch, None, virt_type, [model],
                libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES,
            )  # fmt: skip
        except (Failed, Refused) as error:
            LOG.info("libvirt does not tell the CPU flags of guests: %s", error)
            return frozenset()
        return abilities.spelled_out(spelled)

    def facts(self, virt_type: str, instances_path: str, host_ip: str | None) -> HostFacts:
        """The host as the control plane wants to know it, in six calls. Raises Unknown."""
        ask, connect = self._connection.ask, libvirt.virConnect
        host = self.caps()
        info = ask("read_host_info", connect.getInfo)
        memory = ask("read_host_memory", connect.getMemoryStats, -1)
        total, free = disk_gb(instances_path)
        spare = sum(memory.get(name, 0) for name in ("free", "buffers", "cached"))
        return HostFacts(
            hypervisor_hostname=ask("read_host_name", connect.getHostname),
            hypervisor_type=ask("read_hypervisor_type", connect.getType),
            hypervisor_version=ask("read_hypervisor_version", connect.getVersion),
            vcpus=info[2],
            memory_mb=info[1],
            disk_gb=total,
            disk_free_gb=free,
            memory_used_mb=max(0, (memory.get("total", spare) - spare) // 1024),
            host_ip=host_ip or local_address(),
            virt_type=virt_type,
            cpu_info=host.cpu_info,
            cells=host.cells,
            supported=_supported(host, virt_type),
            machine_types=tuple(sorted({m for s in host.support.values() for m in s.machines})),
        )


def _supported(host: HostCaps, virt_type: str) -> tuple[tuple[str, str, str], ...]:
    """(architecture, hypervisor, mode): KVM only for the host's own, once it is proven."""
    if virt_type in OTHER_TYPES:
        return ((host.arch, virt_type, "exe" if virt_type == "lxc" else HVM),)
    return tuple(
        (support.arch, kind, HVM)
        for support in host.support.values()
        for kind in support.types
        if kind != "kvm" or (virt_type == "kvm" and support.arch == host.arch)
    )


def disk_gb(path: str) -> tuple[int, int]:
    """Size and free space of the file system that holds ``path`` or its nearest parent, GiB."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    try:
        found = os.statvfs(path)
    except OSError as error:
        raise Unknown(
            f"The size of the disk at {path} cannot be read: {error.strerror}.",
            now="Guests keep running.",
            next="Check the file system of [disk] instances_path.",
            code="disk_unreadable",
        ) from error
    unit = found.f_frsize / 2**30
    return int(found.f_blocks * unit), int(found.f_bavail * unit)


def local_address() -> str:
    """The address that this host uses towards others; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation: only asks for a route
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def uptime() -> str:
    """The text of ``uptime``. Raises Unknown."""
    try:
        done = subprocess.run(
            ["uptime"], capture_output=True, text=True, timeout=10, check=True,
            env={**os.environ, "LANG": "C"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise Unknown(
            f"The host's uptime could not be read: {error}.", now="Nothing was changed.",
            next="Install the package procps.", code="no_uptime",
        ) from error  # fmt: skip
    return done.stdout.strip()


def supports_direct_io(directory: str) -> bool:
    """Whether files in ``directory`` can be opened and written past the page cache."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".directio-") as scratch:
            handle = os.open(scratch.name, os.O_WRONLY | os.O_DIRECT)
            try:
                with mmap.mmap(-1, 4096) as aligned:
                    os.write(handle, aligned)
            finally:
                os.close(handle)
    except OSError:
        return False
    return True


def describe_log_error(uuid: str, error: OSError) -> dict[str, Any]:
    """Words for a console log that is there and cannot be read."""
    return {
        "what": f"The console log of {uuid} cannot be read: {error.strerror}.",
        "now": "The guest is not affected.",
        "next": f"Let the agent's user read it: setfacl -m u:USER:r {error.filename}",
        "code": "console_unreadable",
    }


def kvm_device(path: str = "/dev/kvm") -> tuple[bool | None, str, str]:
    """Whether guests may use KVM as libvirtd may: where they may not, libvirtd believes nothing
    that it found out about QEMU, and finds it out again in every call."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None, f"{path} is not there: guests are emulated", ""
    if mode & 0o060 == 0o060 or mode & 0o006 == 0o006:
        return True, f"{path} may be used by QEMU's group", ""
    return None, f"only its owner may use {path}: libvirtd examines QEMU anew in each call", \
        f"Do what udev does elsewhere: chgrp kvm {path} && chmod 660 {path}"


def lock_manager(path: str = "/etc/libvirt/qemu.conf") -> tuple[bool | None, str, str]:
    """Whether libvirt guards disks on shared storage against a second running copy."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.split("#", 1)[0].replace(" ", "").strip() for line in file]
    except OSError as error:
        return None, f"{path} cannot be read: {error.strerror}", ""
    if any(line.startswith("lock_manager=") for line in lines):
        return True, f"{path} sets a lock manager", ""
    return None, "virtlockd is off: nothing guards disks on shared storage", \
        "See etc/libvirt/qemu-lockd.conf.snippet before instances_path is shared between hosts."
