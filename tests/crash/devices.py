"""PCI devices of the hosts of the kill matrix, and the guest's share of them."""

from __future__ import annotations

from compute.model import wire
from compute.model.pci import PF, VF, HostDevice
from compute.resources.devices import given_in
from tests import fakes

ALIAS = "nic"
SPEC = '{"vendor_id": "8086", "address": "0000:06:*.*"}'
NAMED = '{"name": "nic", "vendor_id": "8086", "product_id": "10ca", "device_type": "type-VF"}'
DEVICES = (
    HostDevice("0000:06:00.0", "8086", "10c9", PF, cell=0),
    *(HostDevice(f"0000:06:10.{number}", "8086", "10ca", VF, 0, "0000:06:00.0")
      for number in range(2)),
    *(HostDevice(f"0000:06:11.{number}", "8086", "10ca", VF, 1, "0000:06:00.1")
      for number in range(2)),
)


def offer(world):
    """Let guests of a world have its devices."""
    world.conf.pci.device_spec, world.conf.pci.alias = [SPEC], [NAMED]
    world.driver.pci = DEVICES
    world.inventory.facts(refresh=True)
    return world


def flavor(count: int = 2, **more):
    """A flavor that asks for some."""
    more["extra_specs"] = {"pci_passthrough:alias": f"{ALIAS}:{count}",
                           **more.get("extra_specs", {})}
    return fakes.flavor(**more)


def wrong(world, uuid: str) -> list[str]:
    """Whether a guest's domain, if there is one, has not what its claim holds."""
    found = world.driver._read(uuid)
    if found is None:
        return []
    guest = wire.guest(world.conductor.instance({}, uuid))
    claimed = [given.address for given in given_in(world.journal.claims(guest=uuid), guest)]
    has = found.get("host_devices")
    return [] if len(claimed) == 2 and claimed == has else [
        f"devices {claimed} are claimed, the domain has {has}"]
