"""Checks before a live migration, of both ends, each naming what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from compute.engine.world import Context, World
from compute.errors import MagnetarError, Refused
from compute.model import wire
from compute.model.guest import Guest
from compute.model.move import Check
from compute.rpc.primitives import Primitive
from virt import devices


def at_destination(world: World, context: Context, instance: Primitive,
                   outgoing: Mapping[str, Any]) -> list[Check]:
    """What can be found out here about taking a guest. Changes nothing."""
    guest = full_guest(world, context, instance)
    found = [_devices(guest), _room(world, guest), _here_already(world, guest)]
    found += world.driver.check_incoming(guest, outgoing)
    return [replace(check, host=check.host or world.host) for check in found]


def full_guest(world: World, context: Context, instance: Primitive) -> Guest:
    """The guest with its flavor, which most messages come without."""
    guest = wire.guest(instance, None, world.conf.instance_name_template)
    if guest.flavor is wire.NO_FLAVOR:
        guest = wire.guest(world.conductor.instance(context, guest.uuid), None,
                           world.conf.instance_name_template)
    return guest


def _devices(guest: Guest) -> Check:
    name, has = "host devices", devices.wanted(guest)
    if not has:
        return Check(name, True, "it has none of its host's devices for itself")
    return Check(name, False, "it has devices of its host for itself "
                 f"({', '.join(has)}), whose state cannot be copied",
                 "Migrate it cold: it gets others there.")


def _room(world: World, guest: Guest) -> Check:
    try:
        world.inventory.check_guest(guest)
    except Refused as error:
        return Check("room", False, error.what, "Choose a host with more room.")
    return Check("room", True, "vCPUs, memory and disk of its flavor are free")


def _here_already(world: World, guest: Guest) -> Check:
    if world.driver.state(guest.uuid) is not None:
        return Check("same guest", False, f"a domain with its uuid is on host {world.host} already",
                     f"See 'magnetar explain {guest.uuid}' there.")
    return Check("same guest", True, "no other domain has its uuid")


def shares(world: World, outgoing: Mapping[str, Any]) -> bool:
    """Whether the source's disks are on storage that this host sees as well."""
    theirs = outgoing.get("storage")
    return theirs is not None and theirs == world.driver.incoming_facts().get("storage")


def block_wanted(block: bool | None, shared: bool) -> list[Check]:
    """Whether what was asked for fits the storage; ``block`` None takes either."""
    if block is True and shared:
        return [Check("storage", False, "block migration was asked for, and both hosts share the "
                      "guest's disks", "Ask without --block-migration.")]
    if block is False and not shared:
        return [Check("storage", False, "a shared disk was expected, and the hosts share none",
                      "Ask with --block-migration.")]
    return []


def refuse(listed: Iterable[Check], guest: str, host: str) -> None:
    """Raise Refused(code='cannot_move') naming every check that says no."""
    wrong = [check for check in listed if check.ok is False]
    if wrong:
        raise Refused(
            f"Guest {guest} cannot move to host {host}: "
            + "; ".join(f"{check.name}: {check.found}" for check in wrong) + ".",
            now="The guest stays where it is, and nothing was changed.",
            next=" ".join(dict.fromkeys(check.next for check in wrong if check.next)),
            code="cannot_move")


def to_plain(found: Iterable[Check], host: str) -> list[dict[str, Any]]:
    """Checks as plain data, with the host that made them."""
    return [{**asdict(check), "host": check.host or host} for check in found]


def from_plain(listed: Iterable[Mapping[str, Any]]) -> list[Check]:
    """The checks that :func:`to_plain` described."""
    return [Check(**plain) for plain in listed]


def told_as_checks(error: MagnetarError, host: str) -> list[Check]:
    """An end that could not be asked, as a check that could not be made."""
    return [Check("reachable", None, error.what, error.next, host)]
