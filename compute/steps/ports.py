"""ports: addresses and network interfaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.model import devices, states, wire
from compute.model.guest import NetworkRequest, Nic
from compute.rpc.primitives import data
from compute.steps.record import changed_cache


class Ports(Step):
    """Allocate ports, make sure that their networks are here, and show the addresses."""

    name = "ports"

    def claims(self, run: Run) -> list:
        return [("ports", run.row.guest, {})] if wanted(run) else []

    def do(self, run: Run) -> list[dict[str, Any]]:
        requests = wanted(run)
        nics = run.world.networks.allocate(run.context, run.row.guest, requests) \
            if requests else ()
        if nics:  # what has to be unplugged, should the record of this step be lost
            run.world.journal.claim("ports", run.row.guest, run.row.guest, run.row.id,
                                    {"nics": [asdict(nic) for nic in nics]})
        for nic in nics:
            run.world.driver.plug(run.guest, nic)
            if nic.kind == "network":
                for address in nic.addresses:
                    run.world.driver.reserve_address(
                        nic.source, nic.mac, address.address, run.guest.hostname)
        changes: dict[str, Any] = {"task_state": states.SPAWNING,
                                   "root_device_name": root_device(run)}
        cache = data(run.instance).get("info_cache")
        if nics and cache:
            changes["info_cache"] = changed_cache(cache, wire.network_info(nics))
        if any(nic.tag for nic in nics):
            changes["device_metadata"] = devices.metadata(
                data(run.instance).get("device_metadata"), nics)
        run.save(changes, expected_task_state=[states.NETWORKING, states.SPAWNING])
        return [asdict(nic) for nic in nics]

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        remove_ports(run)


class PortsGone(Step):
    """Unplug the guest's NICs and give its ports back."""

    name = "ports"

    def do(self, run: Run) -> None:
        remove_ports(run)


class Plug(Step):
    """Make sure that the networks of an existing guest's NICs are on this host."""

    name = "ports"

    def do(self, run: Run) -> None:
        for nic in run.guest.nics:
            run.world.driver.plug(run.guest, nic)


def wanted(run: Run) -> tuple[NetworkRequest, ...]:
    """The NICs that were asked for; none when the guest shall have no network."""
    requests = wire.network_requests(run.request["args"].get("requested_networks"))
    return tuple(r for r in requests if r.network_id != "none")


def remove_ports(run: Run) -> None:
    """Unplug and deallocate; what is not there is not missed."""
    nics = all_nics(run)
    if not nics and not run.world.journal.claims(kind="ports", guest=run.row.guest):
        return
    for nic in nics:
        run.world.driver.unplug(run.row.guest, nic)
        if nic.kind == "network":
            run.world.driver.release_address(nic.source, nic.mac)
    run.world.networks.deallocate(run.context, run.row.guest)
    run.world.journal.release(guest=run.row.guest, kind="ports")


def nics_of(run: Run) -> tuple[Nic, ...]:
    """The guest's NICs: as this operation allocated them, else as the control plane shows them,
    else as an earlier operation claimed them."""
    plain = run.outcome("ports")
    if plain:
        return tuple(Nic.from_plain(p) for p in plain)
    return run.guest.nics or claimed_nics(run)


def all_nics(run: Run) -> tuple[Nic, ...]:
    """The NICs to remove: the guest's, and those that were on their way in or out of it."""
    known = {nic.id: nic for nic in (*claimed_nics(run), *nics_of(run))}
    return tuple(known.values())


def claimed_nics(run: Run) -> tuple[Nic, ...]:
    """The NICs that the journal says are the guest's."""
    claims = run.world.journal.claims(kind="ports", guest=run.row.guest)
    return tuple(Nic.from_plain(p) for claim in claims for p in claim.data.get("nics", ()))


def root_device(run: Run) -> str:
    """Name of the root disk as its bus names it; Nova shows it in root_device_name."""
    bus = run.guest.prop("hw_disk_bus") or "virtio"
    return {"virtio": "/dev/vda", "ide": "/dev/hda", "xen": "/dev/xvda"}.get(bus, "/dev/sda")


class DeviceNames(Step):
    """mapping: tell the control plane the device name of each disk made from the image."""

    name = "mapping"

    def do(self, run: Run) -> None:
        bdms = run.request["args"].get("block_device_mapping")
        for bdm in (bdms or {}).get("nova_object.data", {}).get("objects", ()):
            fields = data(bdm)
            local_root = fields.get("boot_index") == 0 and fields.get("destination_type") == "local"
            if local_root and not fields.get("device_name"):
                run.world.conductor.save_bdm(run.context, bdm, {"device_name": root_device(run)})
