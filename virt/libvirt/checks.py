"""What has to be so before a guest moves to another host, looked at from both ends.

Each check names what was found and what mends it. None of them changes anything.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from typing import Any

import libvirt

from compute import concurrency
from compute.errors import MagnetarError, Unknown
from compute.model.guest import Guest
from compute.model.move import Check
from virt.libvirt import hotplug, jobs
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.libvirt.facts import Facts, newer, port_of, version
from virt.libvirt.networks import Networks
from virt.libvirt.tls import Certificates
from virt.xml.cpu import CPU
from virt.xml.domain import Domain

CONNECT_SECONDS = 3.0
OPEN_SECONDS = 10.0
REACHED_SECONDS = 5.0  # how long a destination that was reached counts as reachable
DATA_PORT = 49152  # the first of those that libvirt lets QEMU listen on
SKEW_WORTH_KNOWING, SKEW_TOO_MUCH = 2.0, 60.0  # seconds
UNPRIVILEGED = "/proc/sys/vm/unprivileged_userfaultfd"
COPIES_HOST = ("host-passthrough", "maximum")  # CPU modes that show the guest the host's own


class Checks:
    """The checks of one host."""

    def __init__(
        self, conf: Any, connection: Connection, domains: Domains, networks: Networks,
        facts: Facts, certificates: Certificates,
    ):
        self._conf, self._connection, self._domains = conf, connection, domains
        self._networks, self._facts, self._certificates = networks, facts, certificates
        self._reached: dict[tuple[str, str | None], tuple[float, list[Check]]] = {}

    # -- the destination --------------------------------------------------------------------
    def incoming(self, guest: Guest, outgoing: Mapping[str, Any]) -> tuple[Check, ...]:
        """What can be found out here about taking a guest; disks are the store's matter."""
        here = self._facts.incoming()
        options = self._conf.libvirt
        found = [
            _another_host(here, outgoing),
            self._cpu(here, outgoing),
            _machine(outgoing["machine"], here["machine_types"]),
            _not_older("QEMU", "emulator_version", here, outgoing),
            _not_older("libvirt", "libvirt_version", here, outgoing),
            _memory(outgoing["memory_mb"]),
            self._free(guest),
            *(self._network(nic) for nic in guest.nics),
            _clocks(here["time"], outgoing["time"]),
        ]
        if options.live_migration_permit_post_copy:
            found.append(_post_copy())
        if options.live_migration_scheme == "tls" or options.live_migration_with_native_tls:
            host = port_of(here["uri"])[0]
            found += self._certificates.check_server(host, options.live_migration_scheme)
        return tuple(found)

    def _cpu(self, here: Mapping[str, Any], outgoing: Mapping[str, Any]) -> Check:
        """The guest's own CPU against what this host can give, as libvirt compares them."""
        name, text = "CPU", outgoing.get("cpu")
        if not text:
            return Check(name, None, "the guest has the machine's default CPU")
        wanted = CPU.parse(text)
        if wanted.mode in COPIES_HOST:
            equal = outgoing.get("cpu_info") == here["cpu_info"]
            return Check(
                name, equal, f"the guest sees its host's own CPU ({wanted.mode}), and both "
                f"hosts' are {'the same' if equal else 'not the same'}",
                "" if equal else "Choose a host with the same CPU, or give guests a named model "
                "([libvirt] cpu_mode = custom); they get it at their next start.")  # fmt: skip
        try:
            verdict = self._connection.ask(
                "compare_cpu", libvirt.virConnect.compareHypervisorCPU, None,
                outgoing.get("arch"), outgoing["machine"], outgoing.get("type"), text,
                libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE,
            )  # fmt: skip
        except MagnetarError as error:
            known = error.code == "cpu_incompatible"
            return Check(name, False if known else None, error.what,
                         error.next if known else "")  # fmt: skip
        model = wanted.model or wanted.mode
        if verdict in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET):
            return Check(name, True, f"this host can give a {model}")
        return Check(name, False, f"this host cannot give a {model}",
                     "Choose a host whose CPU can.")  # fmt: skip

    def _free(self, guest: Guest) -> Check:
        """Neither uuid nor name are another guest's here."""
        try:
            self._domains.check_free(guest.uuid, guest.name, 2**31)
        except MagnetarError as error:
            return Check("name", False, error.what, error.next)
        return Check("name", True, f"no other domain is named {guest.name}")

    def _network(self, nic: Any) -> Check:
        name = f"network {nic.source}"
        try:
            self._networks.check(nic)
        except MagnetarError as error:
            return Check(name, False, error.what, error.next)
        return Check(name, True, f"{nic.kind} {nic.source} is here")

    # -- the source -------------------------------------------------------------------------
    def outgoing(self, uuid: str, incoming: Mapping[str, Any]) -> tuple[Check, ...]:
        """What can be found out here about sending a guest to the host that told ``incoming``."""
        handle = self._domains.required(uuid)
        domain, here = self._facts.definition(uuid, handle), self._facts.common()
        found = [
            _another_host(here, incoming),
            _machine(domain.os.machine, incoming["machine_types"]),
            _movable(domain),
            self._idle(uuid, handle),
            _clocks(here["time"], incoming["time"]),
        ]
        if incoming.get("shared"):
            found.append(_caches(domain))
        options = self._conf.libvirt
        scheme = incoming["uri"].partition("://")[0].partition("+")[2]
        if options.live_migration_with_native_tls or scheme == "tls":
            found += self._certificates.check_client(scheme)
        if options.live_migration_with_native_tls and not incoming.get("tls"):
            found.append(Check("encryption", None, "the destination has no certificates for QEMU, "
                               "so memory and disks would go unencrypted",
                               "Make them with tools/certificates."))  # fmt: skip
        return (*found, *self._reachable(incoming))

    def _idle(self, uuid: str, handle: Any) -> Check:
        stats = jobs.read(self._connection, handle) or {}
        if stats.get("type") in (None, libvirt.VIR_DOMAIN_JOB_NONE):
            return Check("job", True, "libvirt does nothing else with the guest")
        kind = stats.get("operation", 0)
        doing = jobs.WORDS.get(kind, f"a job of kind {kind}")
        return Check("job", False, f"libvirt is busy with the guest: {doing}",
                     "Wait for its end, or stop it.")  # fmt: skip

    def _reachable(self, incoming: Mapping[str, Any]) -> list[Check]:
        """Whether libvirt and QEMU get through to the destination. A way that was open a moment
        ago is not tried again: a migration asks twice, and this is most of what it costs."""
        way = (incoming["uri"], incoming.get("migrate_uri"))
        tried, found = self._reached.get(way, (0.0, []))
        if not found or time.monotonic() - tried > REACHED_SECONDS:
            found = self._try(incoming)
            self._reached.pop(way, None)
            if all(check.ok for check in found):
                self._reached[way] = time.monotonic(), found
        return found

    def _try(self, incoming: Mapping[str, Any]) -> list[Check]:
        host, port = port_of(incoming["uri"])
        control = self._knock(host, port)
        if control:
            return [Check("libvirt port", False, f"{host} port {port}: {control}",
                          "Open the port in the firewall between the hosts, and let the "
                          "destination's libvirtd listen (virtproxyd-tls.socket, or listen_tls "
                          "and --listen).")]  # fmt: skip
        target = port_of(incoming["migrate_uri"])[0] if incoming.get("migrate_uri") else host
        return [
            Check("libvirt port", True, f"{host} port {port} answers"),
            self._daemon(incoming["uri"]),
            _data_port(self._knock(target, DATA_PORT), target),
        ]

    def _knock(self, host: str, port: int) -> str:
        """Why a TCP connection cannot be made, in words; empty when it can."""
        try:
            return self._connection.calls.run(
                "knock_at_destination", _connect, host, port, timeout=OPEN_SECONDS)
        except Unknown:
            return f"no answer within {OPEN_SECONDS:g} s"

    def _daemon(self, uri: str) -> Check:
        """Open the destination's libvirt as the source's will, certificates and rights included."""
        try:
            self._connection.calls.run("reach_destination", _greet, uri, timeout=OPEN_SECONDS)
        except MagnetarError as error:
            # Without libvirtd's rights the keys cannot be read, which tells nothing of libvirtd.
            known = None if os.geteuid() else False
            return Check("libvirt", known, f"{uri}: {error.what}",
                         "Correct certificates, host names or rights; 'virsh -c URI uri' on this "
                         "host shows the same.")  # fmt: skip
        return Check("libvirt", True, f"{uri} lets this host in")


def _greet(uri: str) -> str:
    handle = libvirt.open(uri)
    try:
        return handle.getURI()
    finally:
        handle.close()


def _connect(host: str, port: int) -> str:
    """Runs on a native thread: looking up a name cannot be interrupted."""
    native = concurrency.native_module("socket")
    try:
        native.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        return "refused" if error.errno == errno.ECONNREFUSED else str(error)
    return ""


def _data_port(trouble: str, host: str) -> Check:
    """Nobody listens there before a migration: a refusal says that the way is open."""
    name = "data ports"
    if trouble in ("", "refused"):
        return Check(name, True, f"{host} port {DATA_PORT} can be reached")
    return Check(name, False, f"{host} port {DATA_PORT}: {trouble}",
                 "Open ports 49152 to 49215 between the hosts, or those that the destination's "
                 "qemu.conf names (migration_port_min).")  # fmt: skip


def _another_host(here: Mapping[str, Any], other: Mapping[str, Any]) -> Check:
    if here["host_uuid"] != other["host_uuid"]:
        return Check("host", True, "libvirt tells the two hosts apart")
    return Check("host", False, f"both hosts have the uuid {here['host_uuid']}; libvirt takes "
                 "them for one",
                 "If these are two hosts (cloned ones, mostly), set a new host_uuid in "
                 "/etc/libvirt/libvirtd.conf on one of them and restart libvirtd.")  # fmt: skip


def _machine(wanted: str, offered: list[str]) -> Check:
    if wanted in offered:
        return Check("machine type", True, f"{wanted} is known at the destination")
    return Check("machine type", False, f"the destination's QEMU does not know {wanted}",
                 "Choose a host with a QEMU as new, or upgrade the destination's.")  # fmt: skip


def _not_older(name: str, key: str, here: Mapping[str, Any], outgoing: Mapping[str, Any]) -> Check:
    """An older destination mostly works: what decides is the machine type. So it only warns."""
    mine, theirs = version(here[key]), version(outgoing[key])
    if newer(here, outgoing, key):
        return Check(name, True, f"{mine} here, {theirs} on the source")
    return Check(name, None, f"{mine} here is older than {theirs} on the source; libvirt tries, "
                 "and the guest stays there if it does not work",
                 f"Upgrade {name} here first, or choose a newer host.")  # fmt: skip


def _memory(wanted: int) -> Check:
    """``wanted`` in MiB, against what the kernel could give without and with swap."""
    name = "memory"
    try:
        with open("/proc/meminfo") as file:
            found = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in file}
    except (OSError, ValueError, IndexError) as error:
        return Check(name, None, f"the host's free memory is not known: {error}")
    free, swap = found.get("MemAvailable", 0), found.get("SwapFree", 0)
    words = f"{wanted} MiB needed, {free} MiB available"
    if wanted <= free:
        return Check(name, True, words)
    if wanted <= free + swap:
        return Check(name, None, f"{words} and {swap} MiB of swap, which makes guests slow",
                     "Choose a host with more free memory.")  # fmt: skip
    return Check(name, False, words, "Choose a host with more free memory.")


def _clocks(here: float, there: float) -> Check:
    skew = abs(here - there)
    if skew <= SKEW_WORTH_KNOWING:
        return Check("clocks", True, f"within {SKEW_WORTH_KNOWING:g} s of each other")
    mend = "Let both hosts set their clocks by NTP; the guest's would jump."
    return Check("clocks", False if skew > SKEW_TOO_MUCH else None,
                 f"{skew:.0f} s apart (the time to ask included)", mend)  # fmt: skip


def _movable(domain: Domain) -> Check:
    found = [device.words for device in hotplug.immovable(domain)]
    if domain.launch_security is not None:
        found.append("memory that is encrypted for this host alone (SEV)")
    if not found:
        return Check("devices", True, "all can move")
    return Check("devices", False, ", ".join(found), "Detach them first, or move the guest cold.")


def _caches(domain: Domain) -> Check:
    """Shared disks must not be cached on the source when the destination begins to write."""
    cached = [disk.target for disk in domain.devices.disks
              if not disk.readonly and disk.cache not in ("none", "directsync")]  # fmt: skip
    if not cached:
        return Check("disk cache", True, "shared disks are not cached on the host")
    return Check("disk cache", None, f"{', '.join(cached)} may be cached on the host, which "
                 "libvirt allows only on a file system that it knows to be shared",
                 "Use cache=none ([libvirt] disk_cachemodes); guests get it at their next "
                 "start.")  # fmt: skip


def _post_copy() -> Check:
    name = "post-copy"
    try:
        with open(UNPRIVILEGED) as file:
            allowed = file.read().strip() == "1"
    except OSError:
        return Check(name, None, "this kernel has no userfaultfd, which post-copy needs",
                     "Use another strategy, or another kernel.")  # fmt: skip
    if allowed:
        return Check(name, True, "every process may use userfaultfd")
    return Check(name, None, "only privileged processes may use userfaultfd; post-copy fails "
                 "where QEMU is none", "Set sysctl vm.unprivileged_userfaultfd=1.")  # fmt: skip
