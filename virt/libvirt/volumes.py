"""The disk that a volume becomes in a guest."""

from __future__ import annotations

from compute.model.volume import Volume, VolumeSource
from virt.xml import disk

AUTH = {"iscsi": "iscsi", "rbd": "ceph"}  # protocol -> libvirt's type of its secret


def device(volume: Volume, source: VolumeSource, detect_zeroes: bool = True) -> disk.Disk:
    """A volume's disk, for a whole domain or for one that gets it while it runs.

    A volume that several guests write is never cached.
    """
    cache = "none" if volume.multiattach else source.cache
    made = disk.Disk(
        type=source.kind, device=volume.device, driver="qemu", format=source.format, cache=cache,
        io=_io(source, cache), target=volume.target, bus=volume.bus, serial=source.serial or None,
        boot_order=None if volume.boot_index in (None, -1) else volume.boot_index + 1,
    )  # fmt: skip
    if source.discard and not source.readonly:
        made.discard = "unmap"
        made.detect_zeroes = "unmap" if detect_zeroes else None
    made.origin = origin(source)
    for name, value in source.iotune.items():
        setattr(made, name, value)
    if source.readonly or volume.device == "cdrom":
        made.readonly = True
    elif volume.multiattach:
        made.shareable = True
    return made


def origin(source: VolumeSource) -> disk.Source:
    """Where the disk is."""
    made = disk.Source()
    if source.kind == "network":
        made.protocol, made.name = source.protocol, source.path or None
        made.hosts = [disk.Host(name=name, port=port) for name, port in source.hosts]
        made.initiator = source.initiator or None
    elif source.kind == "block":
        made.device = source.path
    else:
        made.file = source.path
    if source.secret:
        made.user, made.secret_usage = source.auth_user, AUTH[source.protocol]
        made.secret = source.secret
    if source.luks_secret:
        made.encryption, made.passphrase_usage = "luks", "passphrase"
        made.passphrase = source.luks_secret
    return made


def _io(source: VolumeSource, cache: str) -> str | None:
    """Native AIO needs an uncached file or device of this host, and is only asynchronous on raw
    ones. Network protocols have ways of their own."""
    if source.kind == "network":
        return None
    return "native" if source.format == "raw" and cache == "none" else "threads"
