"""NICs of the guests of crash tests: one more, and what every part of the world has of them."""

from __future__ import annotations

from collections.abc import Callable

from compute.model import wire
from compute.model.guest import Nic


def add(attach: Callable[[dict], None], prim: dict, port: str) -> None:
    """Have a guest given one more NIC, of a port with this id."""
    attach({"instance": prim, "network_id": None, "port_id": port, "requested_ip": None,
            "tag": "lan"})


def macs(world, guest: str, context: dict) -> dict[str, set[str]]:
    """The MAC addresses of a guest's NICs, as each part of the world has them."""
    listed = {"control plane": wire.nics(world.conductor.fields(guest)),
              "claims": [Nic.from_plain(plain)
                         for claim in world.journal.claims(kind="ports", guest=guest)
                         for plain in claim.data.get("nics", ())],
              "ports": world.networks.bind(context, guest, world.host)}
    found = {part: {nic.mac for nic in nics} for part, nics in listed.items()}
    if world.driver.state(guest) is not None:
        stored, live = world.driver.nics(guest)
        found |= {"definition": set(stored), "guest": set(stored if live is None else live)}
    return found
