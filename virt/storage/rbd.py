"""Root disks as images of Ceph's RBD: clones of one snapshot for each image. Never run against a
cluster here: the commands and what they say are as Ceph's manual pages and sources have them.

``<image>@snap`` is made by the first guest of an image and removed with the last clone of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid as uuids
from collections.abc import Callable
from typing import Any

from compute.errors import Failed, Retryable
from compute.model.guest import CachedImage
from virt.storage import command

MISSING, THERE, BUSY = 2, 17, 16  # errno, which rbd ends with
BASE, SNAP, COPY = "magnetar-base-", "snap", "copy"
MIB = 1 << 20


class RBD:
    """Images of one pool; a target is ``rbd:<pool>/<name>``."""

    def __init__(self, conf: Any, qemu_img: command.QemuImg):
        self._pool, self._seconds = conf.libvirt.images_rbd_pool, conf.disk.command_timeout
        self._ceph, self._user = conf.libvirt.images_rbd_ceph_conf, conf.libvirt.rbd_user
        self._qemu_img = qemu_img

    def target(self, name: str) -> str:
        return f"rbd:{self._pool}/{name}"

    def owns(self, target: str) -> bool:
        return re.fullmatch(
            rf"rbd:{re.escape(self._pool)}/[0-9a-f-]{{36}}_disk\.[0-9a-f]{{8}}", target
        ) is not None

    def make(self, target: str, base: CachedImage, size: int) -> None:
        self.remove(target)
        snapshot, image = f"{self._base(base)}@{SNAP}", _image(target)
        try:
            self._rbd("clone", snapshot, image)
        except Failed as error:
            raise Retryable(  # the last clone of it went in this moment, and it with that one
                error.what, now="No disk was made.", next="It is tried again.",
                code="image_not_cached",
            ) from error  # fmt: skip
        self._rbd("resize", "--size", f"{-(-size // MIB)}M", "--no-progress", image)

    def remove(self, target: str) -> None:
        image = _image(target)
        told = self._info(image)
        if told is None:
            return
        self._snapshots_gone(image)
        self._rbd("rm", "--no-progress", image, accept=(0, MISSING))
        parent = told.get("parent") or {}
        if str(parent.get("image", "")).startswith(BASE):
            self._forget(f"{parent['pool']}/{parent['image']}")

    def copy_out(self, target: str, path: str, size: int, cancel: Callable[[], None]) -> None:
        image = _image(target)
        self._snapshots_gone(image)
        self._rbd("snap", "create", "--no-progress", f"{image}@{COPY}")
        try:
            self._rbd("export", "--no-progress", f"{image}@{COPY}", path, cancel=cancel)
        finally:
            self._snapshots_gone(image)

    def stand_alone(self, target: str) -> None:
        self._rbd("flatten", "--no-progress", _image(target))

    def _base(self, base: CachedImage) -> str:
        """The image that guests' disks are clones of; made if it is not there."""
        name = hashlib.sha256(os.path.basename(base.path).encode()).hexdigest()[:32]
        image = f"{self._pool}/{BASE}{name}"
        if self._info(f"{image}@{SNAP}") is not None:
            return image
        part = f"{image}.{uuids.uuid4().hex[:8]}"  # several hosts may be at it
        options = "".join(f":{key}={value}" for key, value in (
            ("id", self._user), ("conf", self._ceph)) if value)
        try:
            self._qemu_img.convert_to_raw(
                base.path, base.format, f"rbd:{part}{options}", base.virtual_size)
            self._rbd("snap", "create", "--no-progress", f"{part}@{SNAP}")
            self._rbd("snap", "protect", f"{part}@{SNAP}")
            self._rbd("mv", part, image, accept=(0, THERE))
        finally:
            self._forget(part)
        return image

    def _forget(self, image: str) -> None:
        """Remove an image of ours and its snapshot, unless something is a clone of it."""
        snapshot = f"{image}@{SNAP}"
        if self._info(snapshot) is not None:
            if self._clones(snapshot):
                return
            self._rbd("snap", "unprotect", snapshot, accept=(0, MISSING, BUSY, 22))
            self._rbd("snap", "rm", "--no-progress", snapshot, accept=(0, MISSING, BUSY))
        self._rbd("rm", "--no-progress", image, accept=(0, MISSING, BUSY, 39))

    def _clones(self, snapshot: str) -> bool:
        return bool(json.loads(self._rbd("children", "--format", "json", snapshot) or "[]"))

    def _snapshots_gone(self, image: str) -> None:
        self._rbd("snap", "rm", "--no-progress", f"{image}@{COPY}", accept=(0, MISSING))

    def _info(self, image: str) -> dict[str, Any] | None:
        """What rbd says of an image or snapshot, None if there is none."""
        told = self._rbd("info", "--format", "json", image, accept=(0, MISSING))
        return json.loads(told) if told.strip() else None

    def _rbd(self, *argv: str, accept: tuple[int, ...] = (0,),
             cancel: Callable[[], None] = lambda: None) -> str:
        user = ("--id", self._user) if self._user else ()
        return command.run(("rbd", "--conf", self._ceph, *user, *argv), self._seconds,
                           accept=accept, cancel=cancel)  # fmt: skip


def _image(target: str) -> str:
    return target.removeprefix("rbd:")
