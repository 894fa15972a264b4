"""Disks that are logical volumes or images of RBD, as QEMU opens them."""

from __future__ import annotations

from typing import Any

from compute.model.guest import Disk
from virt.xml import disk


def lead(made: disk.Disk, drive: Disk, options: Any) -> None:
    """Let a domain's disk be what the link at its path names."""
    image = drive.link.removeprefix("rbd:")
    if image == drive.link:
        made.type, made.origin = "block", disk.Source(device=drive.link)
        return
    made.type = "network"
    made.origin = origin = disk.Source(
        protocol="rbd", name=image, config=options.images_rbd_ceph_conf)
    if options.rbd_user:
        origin.user, origin.secret_usage = options.rbd_user, "ceph"
        origin.secret = options.rbd_secret_uuid
