"""port, nic, record: one NIC that comes to a guest or leaves it, while it runs or is off.

A NIC is in the guest's definition, in the running guest, in the network service and in the guest's
info cache. What is claimed (``ports``) lists all of a guest's NICs, also those on their way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import Failed, Refused, Turned
from compute.model import devices, wire
from compute.model.guest import NetworkRequest, Nic
from compute.rpc.primitives import data as fields_of
from compute.steps import attached, hotplug
from compute.steps.hotplug import need_domain
from compute.steps.ports import claimed_nics
from compute.steps.record import changed_cache, reread

IN_SECONDS = 30.0


# -- which NIC ------------------------------------------------------------------------------------
def port_of(run: Run) -> str:
    """The id of the port that comes: the one that was asked for, else one that is this
    operation's, so that it is the same when it is asked for again."""
    return run.request["args"].get("port_id") or run.row.id


def has_it(run: Run) -> bool:
    """Whether the guest had the port that was asked for before this operation, as its record says,
    which shows a port that comes only after ``record``."""
    port = run.request["args"].get("port_id")
    return port is not None and any(nic.id == port for nic in run.guest.nics)


def nic_of(run: Run, step: str) -> Nic:
    """The NIC that an earlier step of this operation found."""
    return Nic.from_plain(run.outcome(step))


def others(run: Run, port: str) -> list[Nic]:
    """The guest's NICs without that of one port, as the journal has them, else the record."""
    return [nic for nic in claimed_nics(run) or run.guest.nics if port not in (nic.id, nic.asked)]


def claim(run: Run, nics: Iterable[Nic]) -> None:
    """Write down which NICs are the guest's."""
    plain = [asdict(nic) for nic in nics]
    if plain:
        run.world.journal.claim("ports", run.row.guest, run.row.guest, run.row.id,
                                {"nics": plain})
    else:
        run.world.journal.release(guest=run.row.guest, kind="ports")


def give_back(run: Run, nic: Nic) -> None:
    """Unplug what a NIC left on this host, and give its port back; what is gone is not missed."""
    run.world.driver.unplug(run.row.guest, nic)
    if nic.kind == "network":
        run.world.driver.release_address(nic.source, nic.mac)
    run.world.networks.detach(run.context, run.row.guest, nic.id)
    claim(run, others(run, nic.id))


# -- in the guest ---------------------------------------------------------------------------------
def is_in(run: Run, nic: Nic) -> bool:
    """Whether a NIC is in the guest's definition, and in the guest if it runs."""
    stored, live = run.world.driver.nics(run.row.guest)
    return nic.mac in stored and (live is None or nic.mac in live)


def is_out(run: Run, nic: Nic) -> bool:
    """Whether a NIC is in neither."""
    stored, live = run.world.driver.nics(run.row.guest)
    return nic.mac not in stored and nic.mac not in (live or ())


def let_go(run: Run, nic: Nic, attempts: int) -> bool:
    """Ask the guest to let go of a NIC, so many times, and wait. Returns whether it did."""
    return hotplug.let_go(run, nic.mac, lambda: run.world.driver.detach_nic(run.row.guest, nic),
                          lambda: is_out(run, nic), attempts)


class NicIn(Step):
    """nic: into the guest's definition, and into the guest if it runs."""

    name = "nic"

    def probe(self, run: Run) -> Probe:
        need_domain(run, "NICs")
        return Probe.YES if is_in(run, nic_of(run, "port")) else Probe.NO

    def do(self, run: Run) -> None:
        need_domain(run, "NICs")
        run.world.driver.attach_nic(run.guest, nic_of(run, "port"))

    def settle(self, run: Run) -> None:
        nic = nic_of(run, "port")
        run.must(lambda: is_in(run, nic), IN_SECONDS, f"NIC {nic.mac} in guest {run.row.guest}")

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        nic = nic_of(run, "port")
        if run.world.driver.state(run.row.guest) is None or is_out(run, nic):
            return
        if not let_go(run, nic, 1):
            run.world.driver.attach_nic(run.guest, nic)
            raise Turned(f"The guest does not let go of NIC {nic.mac} any more: it keeps it.")


class NicOut(Step):
    """nic: out of the guest's definition, and out of the guest, which has to let it go."""

    name = "nic"

    def probe(self, run: Run) -> Probe:
        if run.world.driver.state(run.row.guest) is None:
            return Probe.YES
        return Probe.YES if is_out(run, nic_of(run, "which")) else Probe.NO

    def do(self, run: Run) -> None:
        if run.world.driver.state(run.row.guest) is None:
            return
        need_domain(run, "NICs")
        nic = nic_of(run, "which")
        if not let_go(run, nic, run.world.conf.libvirt.device_detach_attempts):
            raise Failed(
                f"Guest {run.row.guest} does not let go of NIC {nic.mac} (port {nic.id}).",
                now="The NIC is still in the guest, with its address.",
                next="Let the guest's system release it (a paused or booting guest cannot), or "
                     "stop the guest, then ask again.",
                code="device_stays")

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        nic = nic_of(run, "which")
        if run.world.driver.state(run.row.guest) is not None and not is_in(run, nic):
            run.world.driver.attach_nic(run.guest, nic)


# -- in the network service -----------------------------------------------------------------------
class OnePort(Step):
    """port: one more port, whose network is on this host. Outcome: the NIC."""

    name = "port"

    def claims(self, run: Run) -> list:
        return [("ports", run.row.guest, {"nics": [asdict(n) for n in others(run, "")]})]

    def do(self, run: Run) -> dict[str, Any]:
        args, port = run.request["args"], port_of(run)
        if has_it(run):
            raise Refused(f"Guest {run.row.guest} has port {port} already.",
                          now="Nothing was done.", next="Choose another port.", code="port_in_use")
        nic = run.world.networks.attach(
            run.context, run.row.guest, port, NetworkRequest(
                network_id=args.get("network_id"), port_id=args.get("port_id"),
                fixed_ip=args.get("requested_ip"), tag=args.get("tag")))
        claim(run, [*others(run, port), nic])
        run.world.driver.plug(run.guest, nic)
        for address in nic.addresses if nic.kind == "network" else ():
            run.world.driver.reserve_address(nic.source, nic.mac, address.address,
                                             run.guest.hostname)
        return asdict(nic)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        if has_it(run):
            return
        port = port_of(run)
        mine = [nic for nic in claimed_nics(run) if port in (nic.id, nic.asked)]
        for nic in mine:
            give_back(run, nic)
        if not mine:  # its answer was lost
            run.world.networks.detach(run.context, run.row.guest, port)
            claim(run, others(run, port))


class Condemned(Step):
    """which: the NIC of the port that is to go, as the record or the journal has it."""

    name = "which"

    def do(self, run: Run) -> dict[str, Any]:
        port = run.request["args"]["port_id"]
        known = {nic.id: nic for nic in (*claimed_nics(run), *run.guest.nics)}
        if port not in known:
            raise Refused(f"Port {port} is not attached to guest {run.row.guest}.",
                          now="Nothing was changed.",
                          next="'magnetar server show' lists the guest's addresses.",
                          code="port_missing")
        return asdict(known[port])


class OnePortGone(Step):
    """port: the tap is unplugged and the port given back."""

    name = "port"

    def do(self, run: Run) -> None:
        give_back(run, nic_of(run, "which"))


# -- what is told ---------------------------------------------------------------------------------
class Shown(Step):
    """record: the guest's addresses and tagged devices, as the API and guests are shown them."""

    name = "record"
    attempts = 1_000_000

    def do(self, run: Run) -> None:
        nic = nic_of(run, "port")
        self.publish(run, nic.id, [nic])

    @staticmethod
    def publish(run: Run, port: str, new: list[Nic]) -> None:
        """Save the NICs that the record has, without that of ``port`` and with ``new``. What else
        was asked of the guest meanwhile is not in the way, nor is its deletion."""
        if not reread(run):
            return
        cache = fields_of(run.instance).get("info_cache")
        nics = [nic for nic in run.guest.nics if nic.id != port] + new
        changes: dict[str, Any] = {}
        if cache:
            changes["info_cache"] = changed_cache(cache, wire.network_info(nics))
        if any(nic.tag for nic in (*nics, *run.guest.nics)):
            before = fields_of(run.instance).get("device_metadata")
            volumes = [one.volume for one in attached.claimed(run)]
            changes["device_metadata"] = devices.metadata(
                devices.of_volumes(before, volumes) if volumes else before, nics)
        try:
            if changes:
                run.save(changes)
        except Refused as error:
            if error.code not in ("deleting", "guest_not_found"):
                raise


class Unshown(Shown):
    """record: the same, without the NIC that went."""

    def do(self, run: Run) -> None:
        self.publish(run, run.request["args"]["port_id"], [])
