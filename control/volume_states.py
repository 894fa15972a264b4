"""Who may have a volume: Cinder's states and attachments, each change in an open transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy.engine import Connection

from compute.errors import Refused
from control.common import NOTHING, not_found
from db.control import volumes
from db.control.volumes import A

Row = dict[str, Any]
AVAILABLE, RESERVED, ATTACHING, IN_USE = "available", "reserved", "attaching", "in-use"
DETACHING, EXTENDING, DELETING, ERROR = "detaching", "extending", "deleting", "error"
MAKING = ("creating", "downloading")
ATTACHED = "attached"
IN_USE_OR_SO = (RESERVED, ATTACHING, IN_USE, DETACHING)


def known(connection: Connection, uuid: str) -> Row:
    """A volume by its id. Raises Refused(code='volume_not_found')."""
    row = volumes.get(connection, uuid)
    if row is None:
        raise not_found("volume", uuid)
    return row


def label(row: Mapping[str, Any]) -> str:
    """How people know a volume."""
    return row["name"] or row["uuid"]


def unavailable(row: Mapping[str, Any], doing: str, wanted: Iterable[str]) -> Refused:
    """The refusal of what a volume's state does not allow."""
    return Refused(f"Cannot {doing} volume {label(row)} while it is {row['status']}.", now=NOTHING,
                   next=f"This works for volumes that are {' or '.join(wanted)}.",
                   code="volume_unavailable")


def settled(connection: Connection, uuid: str) -> str:
    """The status that a volume's attachments give it."""
    found = {row["status"] for row in volumes.attachments(connection, A.volume_uuid == uuid)}
    if ATTACHED in found:
        return IN_USE
    return next((status for status in (ATTACHING, RESERVED) if status in found), AVAILABLE)


def _settle(connection: Connection, uuid: str) -> None:
    volumes.save(connection, uuid, {"status": settled(connection, uuid)}, IN_USE_OR_SO)


def check(connection: Connection, uuid: str, instance_uuid: str) -> Row:
    """Whether an instance may have a volume; the volume. One that has it already may have it a
    second time, as a move of it needs.

    :raises Refused: ``volume_not_found``, ``volume_unavailable``.
    """
    row = known(connection, uuid)
    has = any(a["instance_uuid"] == instance_uuid
              for a in volumes.attachments(connection, A.volume_uuid == uuid))
    free = (AVAILABLE, *IN_USE_OR_SO[:3]) if row["multiattach"] else (AVAILABLE,)
    if not has and row["status"] not in free:
        raise unavailable(row, "attach", free)
    return row


def reserve(connection: Connection, uuid: str, instance_uuid: str) -> Row:
    """Keep a volume for an instance, if it may have it (see :func:`check`); returns the
    attachment."""
    row = check(connection, uuid, instance_uuid)
    if row["status"] == AVAILABLE:
        volumes.save(connection, uuid, {"status": RESERVED})
    return volumes.attach(connection, {
        "volume_uuid": uuid, "instance_uuid": instance_uuid, "status": RESERVED})


def connect(connection: Connection, attachment: str, connector: Row, mountpoint: str) -> Row:
    """A host gets access; returns the volume. Raises Refused(code='attachment_not_found')."""
    found = attachment_known(connection, attachment)
    status = found["status"] if found["status"] == ATTACHED else ATTACHING
    volumes.save_attachment(connection, attachment, {
        "status": status, "host": connector.get("host"), "mountpoint": mountpoint,
        "connector": connector})
    volumes.save(connection, found["volume_uuid"], {"status": ATTACHING}, (AVAILABLE, RESERVED))
    return known(connection, found["volume_uuid"])


def complete(connection: Connection, attachment: str) -> None:
    """The host has attached it. Raises Refused(code='attachment_not_found')."""
    found = attachment_known(connection, attachment)
    volumes.save_attachment(connection, attachment, {"status": ATTACHED})
    volumes.save(connection, found["volume_uuid"], {"status": IN_USE},
                 (AVAILABLE, RESERVED, ATTACHING))


def release(connection: Connection, attachment: str) -> str | None:
    """Give an attachment back; quiet if it is gone. Returns the id of the volume when it has to be
    deleted now, since its last server is gone and wanted it so."""
    found = volumes.attachment(connection, attachment)
    if found is None:
        return None
    volumes.detach(connection, attachment)
    _settle(connection, found["volume_uuid"])
    left = volumes.attachments(connection, A.volume_uuid == found["volume_uuid"])
    if left and found["delete_volume"]:
        volumes.save_attachment(connection, left[0]["uuid"], {"delete_volume": True})
    return found["volume_uuid"] if found["delete_volume"] and not left else None


def free(connection: Connection, instance_uuid: str, devices: Iterable[Row],
         host_lives: bool = True) -> None:
    """An instance is gone, and its volumes are free; those that were to go with it are
    ``deleting``.

    :param devices: its rows of ``block_device_mapping``.
    :param host_lives: whether its host has taken it away. A host that is down may still write to
        what it was given: that is freed by the host when it is back, or by an operator.
    """
    going = {row["volume_id"] for row in devices if row["delete_on_termination"]}
    for attachment in volumes.attachments(connection, A.instance_uuid == instance_uuid):
        uuid = attachment["volume_uuid"]
        if uuid in going:
            volumes.save_attachment(connection, attachment["uuid"], {"delete_volume": True})
        if host_lives or attachment["status"] == RESERVED:
            freed = release(connection, attachment["uuid"])
            if freed:
                volumes.save(connection, freed, {"status": DELETING}, (AVAILABLE,))


def begin_detaching(connection: Connection, uuid: str) -> None:
    """A detach begins. Raises Refused(code='volume_unavailable') unless the volume is in use."""
    if volumes.save(connection, uuid, {"status": DETACHING}, (IN_USE,)) is None:
        raise unavailable(known(connection, uuid), "detach", (IN_USE,))


def roll_detaching(connection: Connection, uuid: str) -> None:
    """A detach does not take place; quiet if none was begun."""
    volumes.save(connection, uuid, {"status": IN_USE}, (DETACHING,))


def attachment_known(connection: Connection, uuid: str) -> Row:
    """An attachment by its id. Raises Refused(code='attachment_not_found')."""
    row = volumes.attachment(connection, uuid)
    if row is None:
        raise Refused(f"There is no attachment {uuid} of a volume.", now=NOTHING,
                      next="Look at the volumes with 'magnetar volume list'.",
                      code="attachment_not_found")
    return row
