"""Volumes of the guests of crash tests, and what every part of the world has of them."""

from __future__ import annotations

from dataclasses import dataclass

from compute.model import mappings
from compute.model.volume import Volume
from compute.rpc.primitives import make
from compute.steps.attached import KIND
from compute.steps.volumes import RESERVED

VOLUME = "cccccccc-0000-4000-8000-000000000001"  # to be attached, or attached before
OTHER = "cccccccc-0000-4000-8000-000000000002"  # comes in its place
ATTACHMENT, OTHERS = "dddddddd-0000-4000-8000-000000000001", "dddddddd-0000-4000-8000-000000000002"
MAPPING = "eeeeeeee-0000-4000-8000-000000000001"


def reserve(world, guest: str, volume: str = VOLUME, attachment: str = ATTACHMENT,
            **fields) -> dict:
    """A volume that the API has reserved for a guest; its mapping, as attach_volume brings it."""
    world.volumes.add(volume, 2)
    world.volumes.set(volume, status="reserved")
    world.volumes.reserve(volume, guest, attachment)
    return world.conductor.add_bdm(_mapping(guest, **{
        "volume_id": volume, "attachment_id": attachment, "device_name": "/dev/vdb",
        "tag": "data", **fields}))


def with_blank(conductor, args: dict) -> dict:
    """A build with one more volume, which is to be made."""
    guest = args["instance"]["nova_object.data"]["uuid"]
    prim = conductor.add_bdm(_mapping(guest, source_type="blank", volume_size=3,
                                            delete_on_termination=True))
    args["block_device_mapping"]["nova_object.data"]["objects"].append(prim)
    return args


def _mapping(guest: str, **fields) -> dict:
    return make("BlockDeviceMapping", {
        "uuid": MAPPING, "instance_uuid": guest, "source_type": "volume",
        "destination_type": "volume", "volume_id": None, "attachment_id": None,
        "device_name": None, "disk_bus": "virtio", "device_type": "disk", "boot_index": None,
        "tag": None, "delete_on_termination": False, "connection_info": None,
        "guest_format": None, **fields}, changes=())


def asked(world, verb: str, guest: str) -> dict:
    """Arguments of a request about the volume, once all is there that it needs."""
    if verb == "attach_volume":
        return {"bdm": reserve(world, guest)}
    if verb == "swap_volume":
        world.volumes.add(OTHER, 2)
        world.volumes.reserve(OTHER, guest, OTHERS)
        return {"old_volume_id": VOLUME, "new_volume_id": OTHER, "new_attachment_id": OTHERS}
    if verb == "reserve_device":
        return {"device": None, "volume_id": world.volumes.add(VOLUME), "disk_bus": None,
                "device_type": None, "tag": None, "multiattach": False}
    if verb == "detach_volume":
        world.volumes.set(VOLUME, status="detaching")
    if verb == "extend_volume":
        world.volumes.set(VOLUME, size=5)
    if verb == "disconnect_volume":  # the guest left, and with it the disk
        world.driver.detach_volume(guest, Volume(VOLUME))
        return {"volume_id": VOLUME, "delete_attachment": True}
    return {"volume_id": VOLUME}


@dataclass(frozen=True)
class Seen:
    """What is found of a guest's volumes: paths as each part of the world has them, what is left
    that should have gone, volumes that the service has with their status, kinds of claims, sizes
    that the guest was told, and whether the journal has a secret."""

    paths: dict[str, set[str]]
    left: list[str]
    there: dict[str, str]
    kinds: frozenset[str]
    sizes: dict[str, int]
    secret: bool


def seen(world, guest: str) -> Seen:
    """Look, without a call that anybody would notice."""
    state, stored = world.volumes.read(), _stored(world, guest)
    return Seen(_paths(world, guest, state, stored), _left(guest, state, stored),
                {key: one["status"] for key, one in state["volumes"].items()},
                frozenset(claim.kind for claim in world.journal.claims(guest=guest)
                          if claim.kind in (KIND, RESERVED)),
                (world.driver._read(guest) or {}).get("sizes", {}), _secret(world))


def _stored(world, guest: str) -> list[dict]:
    return [one for one in world.conductor.read()["bdms"].values()
            if one.get("instance_uuid") == guest and not one.get("deleted")
            and one.get("destination_type") == "volume"]


def _paths(world, guest: str, state: dict, stored: list[dict]) -> dict[str, set[str]]:
    paths = {key: one["path"] for key, one in state["volumes"].items()}
    claimed = [one["volume"] for claim in world.journal.claims(kind=KIND, guest=guest)
               for one in claim.data["volumes"]]
    held = [one for one in state["attachments"].values() if one["guest"] == guest]
    connected = [one for one in stored if one.get("connection_info")]
    found = {
        "connections": {mappings.connection_of(one)["data"]["device_path"] for one in connected},
        "mappings": {paths.get(one["volume_id"], "gone") for one in connected},
        "claims": {one["connection"].get("data", {}).get("device_path", "none")
                   for one in claimed},
        "attachments": {paths[one["volume"]] for one in held if one["host"]},
        "complete": {paths[one["volume"]] for one in held if one["complete"]},
        "connected": {path for path, owner in world.driver.connected_volumes()
                      if owner == guest},
    }
    domain = world.driver._read(guest)
    if domain is not None:
        found["definition"] = {one["path"] for one in domain.get("volumes", {}).values()}
        found["guest"] = {one["path"] for one in world.driver._live(domain).values()}
    return found


def _secret(world) -> bool:
    rows = [str(row.request) + "".join(str((step.outcome, step.undo))
                                       for step in world.journal.steps(row.id))
            for row in world.journal.find()]
    return "volume-secret" in "".join(rows + [str(c.data) for c in world.journal.claims()])


def _left(guest: str, state: dict, stored: list[dict]) -> list[str]:
    """Attachments without a mapping, and mappings without an attachment."""
    named = {one.get("attachment_id") for one in stored}
    held = {key for key, one in state["attachments"].items() if one["guest"] == guest}
    return [f"attachment {one}" for one in held - named] + \
        [f"mapping of {one}" for one in named - held - {None}]


def moved(world, guest: str, mine: bool) -> list[str]:
    """What is wrong with the volumes of a guest that moves, as one of its hosts has them."""
    found = seen(world, guest)
    made = [f"left: {one}" for one in found.left] if mine else []
    held = {one["host"] for one in world.volumes.read()["attachments"].values()
            if one["guest"] == guest}
    if mine and held != {world.host}:
        made.append(f"attachments are of {held}")
    agreed = found.paths if mine else {
        part: paths for part, paths in found.paths.items()
        if part in ("claims", "connected", "definition", "guest")}
    wrong = {part: paths for part, paths in agreed.items() if len(paths) != mine}
    if wrong:
        made.append(f"volumes: {wrong}")
    return made


# How many volumes a guest may have after a verb, done or undone.
COUNTS = {"spawn": {0, 1}, "attach_volume": {0, 1}, "detach_volume": {0, 1}, "delete": {0},
          "reap": {0}, "reserve_device": {0}}


def problems(verb: str, found: Seen, fields: dict) -> list[str]:
    """All that is not as it must be of the guest's volumes."""
    made = [f"left: {one}" for one in found.left]
    if found.secret:
        made.append("the journal has a secret of a connection")
    if verb == "disconnect_volume":
        if found.paths["connected"] or found.kinds:
            made.append(f"still connected: {found}")
        return [*(one for one in made if "mapping" not in one)]
    if len({frozenset(paths) for paths in found.paths.values()}) > 1:
        made.append(f"volumes: {found.paths}")
    count = len(found.paths["claims"])
    if count not in COUNTS.get(verb, {0, 1}):
        made.append(f"{count} volumes: {found.paths}")
    if fields["deleted"] and found.there:
        made.append(f"volumes that end with the guest are there: {found.there}")
    stray = [key for key, status in found.there.items() if status == "detaching"]
    if stray:
        made.append(f"still detaching: {stray}")
    return made
