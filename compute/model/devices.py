"""Tagged devices, as Nova's metadata service tells guests of them (InstanceDeviceMetadata 1.0)."""

from __future__ import annotations

from collections.abc import Iterable

from compute.model.guest import Nic
from compute.model.volume import Volume
from compute.rpc.primitives import Primitive, make, name
from compute.rpc.primitives import data as fields_of

NIC = "NetworkInterfaceMetadata"
DISK = "DiskMetadata"


def metadata(before: Primitive | None, nics: Iterable[Nic]) -> Primitive:
    """An Instance's device_metadata with these NICs, of which those with a tag are listed. What
    it said of other devices stays."""
    listed = fields_of(before).get("devices") or ()
    kept = [device for device in listed if name(device) != NIC]
    tagged = [make(NIC, {"mac": nic.mac, "tags": [nic.tag], "vf_trusted": False})
              for nic in nics if nic.tag]
    return make("InstanceDeviceMetadata", {"devices": [*kept, *tagged]})


def of_volumes(before: Primitive | None, volumes: Iterable[Volume]) -> Primitive:
    """The same for volumes: those with a tag are listed, by their serial numbers."""
    listed = fields_of(before).get("devices") or ()
    kept = [device for device in listed if name(device) != DISK]
    tagged = [make(DISK, {"path": f"/dev/{one.target}", "serial": one.shown, "tags": [one.tag]})
              for one in volumes if one.tag]
    return make("InstanceDeviceMetadata", {"devices": [*kept, *tagged]})
