"""What the control plane keeps of a guest that changes its size or host, for its way back."""

from __future__ import annotations

from compute.engine.run import Run
from compute.model.guest import Guest
from compute.resources.places import to_record
from compute.rpc.primitives import Primitive, data, make
from compute.steps.claim import placement_of
from compute.steps.migration_record import migration_of


def context_of(run: Run, after: Guest) -> Primitive:
    """The MigrationContext of a guest without devices of its own: its places before and after."""
    guest, none = run.row.guest, ()

    def requests() -> Primitive:
        return make("InstancePCIRequests", {"instance_uuid": guest, "requests": []}, none)

    def devices() -> Primitive:
        return make("PciDeviceList", {"objects": []}, none)

    return make("MigrationContext", {
        "instance_uuid": guest, "migration_id": migration_of(run)["id"],
        "new_numa_topology": to_record(after, placement_of(run, after)),
        "old_numa_topology": data(run.instance).get("numa_topology"),
        "new_pci_devices": devices(), "old_pci_devices": devices(),
        "new_pci_requests": requests(), "old_pci_requests": requests(),
        "new_resources": None, "old_resources": None}, none)
