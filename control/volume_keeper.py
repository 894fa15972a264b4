"""Making and removing volumes, so that a control plane that dies in between goes on at its start.

A volume's row is there before its file, and goes after it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from compute.errors import MagnetarError, Parked, Refused
from control import volume_states as can
from control.common import NOTHING
from control.volume_files import VolumeFiles, check_size
from db.control import volumes
from db.control.store import Store
from db.control.volumes import A, V

LOG = logging.getLogger(__name__)
Row = dict[str, Any]
AT_ONCE = 2  # copies that go on at once
COPIED = "uploading"  # Cinder's word for a volume that is being read
UNFINISHED = (*can.MAKING, can.EXTENDING, can.DELETING, COPIED)
DELETABLE = (can.AVAILABLE, can.ERROR, can.DELETING)


class VolumeKeeper:
    """Everything about volumes that takes time.

    :param images: as :class:`control.api.ControlPlane` has it.
    """

    def __init__(self, conf: Any, store: Store, images: Any):
        self.conf, self.store, self.images = conf, store, images
        self.files = VolumeFiles(conf)
        self._turn = threading.Lock()  # room is looked for and promised by one at a time
        self._copies = threading.Semaphore(AT_ONCE)
        self._stopping = threading.Event()

    # -- making --------------------------------------------------------------------------------

    def create(self, values: Row) -> Row:
        """A new volume: whole when it is empty; ``creating`` or ``downloading`` as long as its
        contents are copied. The same request and name give the same volume.

        :param values: columns; ``size`` may be None for that of its source.
        :raises Refused: the source cannot be used. :raises Retryable: there is no room.
        """
        source = self._checked(values)
        try:
            with self._turn, self.store.begin() as connection:
                old = _earlier(connection, values)
                row = old or self._insert(connection, values, source)
        except IntegrityError:  # the same request at the same time
            with self.store.begin() as connection:
                row = old = _earlier(connection, values) or {}
        if old or row["status"] == can.AVAILABLE:
            return row
        if row["source_image"] or row["source_volume"]:
            self._begin(row)
            return row
        try:
            self._make(row)
        except MagnetarError:
            with self.store.begin() as connection:
                volumes.delete(connection, row["uuid"])
            raise
        with self.store.begin() as connection:
            return can.known(connection, row["uuid"])

    def _checked(self, values: Row) -> Row | None:
        """Complete the size; the row of the volume to copy, if one is."""
        if values.get("source_image"):
            image = self.images.show(values["source_image"])
            values["size"] = values.get("size") or max(image.min_disk, 1)
            check_size(image, 0, values["size"])
            return None
        if not values.get("source_volume"):
            return None
        with self.store.begin() as connection:
            source = can.known(connection, values["source_volume"])
        values["size"] = values.get("size") or source["size"]
        if source["format"] is None:
            raise Refused(f"Volume {can.label(source)} was registered from elsewhere; it cannot be "
                          "copied here.", now=NOTHING, next="Copy it where it is kept.",
                          code="volume_unavailable")
        if values["size"] < source["size"]:
            raise Refused(f"A copy of volume {can.label(source)} cannot be smaller than its "
                          f"{source['size']} GiB.", now=NOTHING,
                          next=f"Ask for {source['size']} GiB or more.", code="volume_too_small")
        return source

    def _insert(self, connection: Connection, values: Row, source: Row | None) -> Row:
        if values.get("format"):
            self.files.check_room(volumes.promised(connection), values["size"])
        if source is not None and volumes.save(
                connection, source["uuid"], {"status": COPIED}, (can.AVAILABLE,)) is None:
            raise can.unavailable(can.known(connection, source["uuid"]), "copy", (can.AVAILABLE,))
        status = "downloading" if values.get("source_image") else "creating"
        return volumes.create(connection, {
            **values, "status": status if values.get("format") else can.AVAILABLE})

    def _begin(self, row: Row) -> None:
        threading.Thread(target=self._work, args=(row,), name="control-volume",
                         daemon=True).start()

    def _work(self, row: Row) -> None:
        with self._copies:
            try:
                self._make(row)
            except Parked:
                LOG.info("Volume %s is made when the control plane starts again.", row["uuid"])
            except MagnetarError as error:
                LOG.warning("Volume %s could not be made: %s", row["uuid"], error)
                self._fail(row, error)
            except Exception as error:
                LOG.exception("Volume %s could not be made.", row["uuid"])
                self._fail(row, error)

    def _make(self, row: Row) -> None:
        source = None
        if row["source_volume"]:
            with self.store.begin() as connection:
                source = can.known(connection, row["source_volume"])
        self.files.make(row, self.images, source, self._cancel)
        values: Row = {"status": can.AVAILABLE, "message": None}
        if source is not None:
            values.update(bootable=source["bootable"], image_metadata=source["image_metadata"])
        with self.store.begin() as connection:
            volumes.save(connection, row["uuid"], values, can.MAKING)
            self._let_go(connection, row)

    def _fail(self, row: Row, error: Exception) -> None:
        with self.store.begin() as connection:
            volumes.save(connection, row["uuid"],
                         {"status": can.ERROR, "message": str(error)}, can.MAKING)
            self._let_go(connection, row)

    @staticmethod
    def _let_go(connection: Connection, row: Row) -> None:
        """What was copied can be used again."""
        if row["source_volume"]:
            volumes.save(connection, row["source_volume"], {"status": can.AVAILABLE}, (COPIED,))

    def _cancel(self) -> None:
        if self._stopping.is_set():
            raise Parked()

    # -- extending -----------------------------------------------------------------------------

    def extend(self, uuid: str, size: int) -> Row:
        """Let a volume have ``size`` GiB. Returns it as it is then.

        :raises Refused: it is in another state, or would shrink. :raises Retryable: no room.
        """
        with self._turn, self.store.begin() as connection:
            row = can.known(connection, uuid)
            if size < row["size"]:
                raise Refused(f"Volume {can.label(row)} has {row['size']} GiB, and volumes never "
                              "shrink.", now=NOTHING,
                              next="Copy what is on it to a smaller volume.",
                              code="volume_too_small")
            if row["format"]:
                self.files.check_room(volumes.promised(connection), size - row["size"])
            from_ = (can.AVAILABLE, can.IN_USE)
            if volumes.save(connection, uuid, {"status": can.EXTENDING}, from_) is None:
                raise can.unavailable(row, "extend", from_)
        try:
            if row["format"]:
                self.files.grow(row, size)
        except MagnetarError:
            self._settle(row, row["size"])
            raise
        return self._settle(row, size)

    def _settle(self, row: Row, size: int) -> Row:
        with self.store.begin() as connection:
            status = can.settled(connection, row["uuid"])
            return volumes.save(connection, row["uuid"], {"size": size, "status": status},
                                (can.EXTENDING,)) or can.known(connection, row["uuid"])

    # -- removing ------------------------------------------------------------------------------

    def delete(self, uuid: str) -> None:
        """Delete a volume that nobody uses.

        :raises Refused: ``volume_not_found``, ``volume_in_use``, ``volume_unavailable``.
        """
        with self.store.begin() as connection:
            row = can.known(connection, uuid)
            users = volumes.attachments(connection, A.volume_uuid == uuid)
            if users:
                raise Refused(
                    f"Volume {can.label(row)} is {row['status']}: server "
                    f"{users[0]['instance_uuid']} has it.", now="It was not deleted.",
                    next=f"Take it out first: 'magnetar server remove volume "
                    f"{users[0]['instance_uuid']} {uuid}'.", code="volume_in_use")
            if volumes.save(connection, uuid, {"status": can.DELETING}, DELETABLE) is None:
                raise can.unavailable(row, "delete", DELETABLE[:2])
        if row["format"]:
            self.files.remove(row)
        with self.store.begin() as connection:
            volumes.delete(connection, uuid)

    def delete_freed(self, uuids: list[str]) -> None:
        """Delete volumes whose last server is gone and wanted it so; what cannot be deleted now
        is left, and told."""
        for uuid in uuids:
            try:
                self.delete(uuid)
            except MagnetarError as error:
                if error.code != "volume_not_found":
                    LOG.warning("Volume %s of a deleted server is left: %s", uuid, error)

    # -- at start ------------------------------------------------------------------------------

    def unfinished(self) -> list[Row]:
        """Volumes that an earlier process had begun something with; asked at start."""
        with self.store.begin() as connection:
            return volumes.query(connection, V.status.in_(UNFINISHED))

    def resume(self, rows: list[Row]) -> None:
        """Go on with unfinished volumes."""
        copied = {row["source_volume"] for row in rows if row["status"] in can.MAKING}
        for row in rows:
            if row["status"] in can.MAKING:
                self._begin(row)
            elif row["status"] == can.DELETING:
                self.delete_freed([row["uuid"]])
            elif row["status"] == can.EXTENDING:
                size = max(self.files.size(row), row["size"]) if row["format"] else row["size"]
                self._settle(row, size)
            elif row["uuid"] not in copied:
                with self.store.begin() as connection:
                    self._let_go(connection, {"source_volume": row["uuid"]})

    def stop(self) -> None:
        """Leave what is being copied to the next start."""
        self._stopping.set()


def _earlier(connection: Connection, values: Mapping[str, Any]) -> Row | None:
    """The volume that this request made under this name."""
    if not values.get("request_id") or not values.get("name"):
        return None
    found = volumes.query(connection, V.request_id == values["request_id"],
                          V.name == values["name"])
    return found[0] if found else None
