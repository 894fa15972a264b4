"""Copies of disks that guests write to: a block job of QEMU, which follows the writes and never
holds them up. The job is transient, so that the definition stays: nothing is undefined for it."""

from __future__ import annotations

from typing import Any

import libvirt

from compute.errors import MagnetarError, Refused, Retryable
from compute.model.guest import CopyState
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.storage import linked
from virt.storage.onecopy import OneCopy
from virt.xml.disk import Disk

GONE = ("guest_not_found", "invalid_state")
SLOW = 120.0  # seconds that ending a job may take: what is in flight is written first


class BlockCopy:
    """Block copies of root disks of the domains of one libvirtd."""

    def __init__(self, connection: Connection, domains: Domains, files: OneCopy):
        self._connection, self._domains, self._files = connection, domains, files

    def begin(self, uuid: str) -> None:
        """See :meth:`virt.driver.Driver.begin_copy`."""
        domain, root = self._domains.required(uuid), self._files.root(uuid)
        linked.stays(uuid, (root,))
        if self._job(domain, root.path):
            return
        root, path = self._files.begin(uuid)
        target = Disk(type="file", format=root.format, source=path).to_xml()
        self._connection.call("begin_disk_copy", _begin, domain, root.path, target, timeout=SLOW)

    def state(self, uuid: str) -> CopyState | None:
        """See :meth:`virt.driver.Driver.copy_state`. libvirt tells done = total only when the copy
        is level with the disk."""
        domain = self._domains.find(uuid)
        job = self._job(domain, self._files.root(uuid).path) if domain is not None else {}
        if not job:
            return None
        done, total = int(job["cur"]), int(job["end"])
        return CopyState(done, total, done == total > 0)

    def finish(self, uuid: str) -> None:
        """See :meth:`virt.driver.Driver.finish_copy`. The job is asked for its end without a
        switch to the copy, and that ends it only when all that was written is in the copy."""
        domain, root = self._domains.required(uuid), self._files.root(uuid)
        job = self._job(domain, root.path)
        if not job or job["cur"] != job["end"]:
            raise Retryable(
                f"There is no copy of the disk of guest {uuid} that is level with it: the job "
                "ended by itself, or the guest went off.",
                now="The guest's disk is as it was.",
                next="It is begun anew. See the host's libvirtd log, and whether the disk is full.",
                code="copy_lost",
            )
        self._connection.call("end_disk_copy", domain.blockJobAbort, root.path, 0, timeout=SLOW)
        self._files.finish(uuid)

    def discard(self, uuid: str) -> None:
        """See :meth:`virt.driver.Driver.discard_copy`."""
        domain = self._domains.find(uuid)
        if domain is not None:
            self._stop(domain, uuid)
        self._files.remove(uuid)

    def _stop(self, domain: Any, uuid: str) -> None:
        try:
            path = self._files.root(uuid).path
        except MagnetarError as error:
            if error.code != "disks_missing":
                raise
            return
        if not self._job(domain, path):
            return
        try:
            self._connection.call("stop_disk_copy", domain.blockJobAbort, path, 0, timeout=SLOW)
        except MagnetarError:
            if self._job(domain, path):
                raise

    def _job(self, domain: Any, path: str) -> dict[str, Any]:
        """The copy of a disk that is under way; empty if there is none."""
        try:
            found = self._connection.call("read_disk_job", domain.blockJobInfo, path, 0)
        except Refused as error:
            if error.code not in GONE:
                raise
            return {}
        copies = found and found.get("type") == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY
        return dict(found) if copies else {}


def _begin(domain: Any, path: str, target: str) -> None:
    domain.blockCopy(path, target, flags=libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
