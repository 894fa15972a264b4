"""Root disks as logical volumes. Never run against LVM here, for want of a device mapper: the
commands and what they say are as lvm2's manual pages and sources have them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from compute.errors import Failed
from compute.model.guest import CachedImage
from virt.storage import command


class LVM:
    """Logical volumes of one group; a target is a device, ``/dev/<group>/<name>``."""

    def __init__(self, conf: Any, qemu_img: command.QemuImg):
        self._group, self._seconds = conf.libvirt.images_volume_group, conf.disk.command_timeout
        self._qemu_img = qemu_img

    def target(self, name: str) -> str:
        if not self._group:
            raise Failed(
                "[disk] images_type is lvm, and [libvirt] images_volume_group is not set.",
                now="No disk was made.",
                next="Set it to the name of a volume group with room for guests' disks.",
                code="storage_failed",
            )
        return f"/dev/{self._group}/{name}"

    def owns(self, target: str) -> bool:
        return bool(self._group) and re.fullmatch(
            rf"/dev/{re.escape(self._group)}/[0-9a-f-]{{36}}_disk\.[0-9a-f]{{8}}", target
        ) is not None

    def make(self, target: str, base: CachedImage, size: int) -> None:
        self.remove(target)
        self._run("lvcreate", "--yes", "--size", f"{size}b", "--name", _name(target), self._group)
        # What another guest left there is nobody's business.
        self._run("blkdiscard", "--zeroout", target)
        self._qemu_img.fill(base.path, base.format, target, base.virtual_size)

    def remove(self, target: str) -> None:
        if self._exists(target):
            self._run("lvremove", "--yes", "--force", f"{self._group}/{_name(target)}")

    def copy_out(self, target: str, path: str, size: int, cancel: Callable[[], None]) -> None:
        self._qemu_img.flatten(target, "raw", path, size, cancel)

    def stand_alone(self, target: str) -> None:
        """It always does."""

    def _exists(self, target: str) -> bool:
        """Listed, not looked up: so that "not found" and "did not work" are told apart."""
        listed = self._run("lvs", "--noheadings", "--options", "lv_name", self._group)
        return _name(target) in listed.split()

    def _run(self, *argv: str) -> str:
        return command.run(argv, self._seconds)


def _name(target: str) -> str:
    return target.rpartition("/")[2]
