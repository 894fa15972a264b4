"""A connection_info of the volume service, read with care."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compute.errors import Failed

# libvirt's names of limits, which are also those of Cinder's QoS specs for the front end.
LIMITS = tuple(
    f"{way}_{unit}{most}" for unit in ("bytes_sec", "iops_sec")
    for way in ("total", "read", "write") for most in ("", "_max", "_max_length")
) + ("size_iops_sec",)


@dataclass(frozen=True)
class Connection:
    """One volume's way to one guest. ``type`` is the driver_volume_type, ``data`` what belongs to
    it, ``volume`` the volume's id, ``guest`` the guest's uuid ('' where none is concerned)."""

    type: str
    data: Mapping[str, Any]
    volume: str
    guest: str = ""

    @classmethod
    def of(cls, info: Mapping[str, Any], guest: str = "") -> Connection:
        """Read what the volume service said. Raises Failed(code='volume_unacceptable')."""
        kind, data = info.get("driver_volume_type"), info.get("data")
        volume = info.get("serial") or (data or {}).get("volume_id")
        if not (isinstance(kind, str) and kind and isinstance(data, Mapping) and volume):
            raise unacceptable("", "names no driver_volume_type, data or serial")
        return cls(kind, data, str(volume), guest)

    def need(self, name: str) -> Any:
        """A value that this type cannot do without. Raises Failed(code='volume_unacceptable')."""
        value = self.data.get(name)
        if value in (None, "", [], ()):
            raise unacceptable(self.volume, f"of type {self.type} has no {name}")
        return value

    @property
    def encrypted(self) -> bool:
        return bool(self.data.get("encrypted"))

    @property
    def format(self) -> str:
        return str(self.data.get("format") or "raw")

    @property
    def layout(self) -> str:
        """What is to be looked into for the size that a guest sees: LUKS has a header, which is
        QEMU's matter in a qcow2 file."""
        return "luks" if self.encrypted and self.format == "raw" else self.format

    @property
    def readonly(self) -> bool:
        return self.data.get("access_mode") == "ro"

    def limits(self) -> dict[str, int]:
        """Limits that the volume's type sets, by libvirt's names."""
        specs = self.data.get("qos_specs") or {}
        try:
            found = {name: int(specs[name]) for name in LIMITS if specs.get(name)}
        except (TypeError, ValueError) as error:
            raise unacceptable(self.volume, f"has a limit that is no number ({error})") from error
        for unit in ("bytes_sec", "iops_sec"):
            if f"total_{unit}" in found and {f"read_{unit}", f"write_{unit}"} & set(found):
                raise unacceptable(
                    self.volume, f"limits total_{unit} together with reads or writes")
        return found


def unacceptable(volume: str, why: str) -> Failed:
    """The error for a connection that cannot be used as it is."""
    return Failed(
        f"The connection of volume {volume} {why}." if volume else f"A connection {why}.",
        now="Nothing was connected.",
        next="Look at the volume's type and back-end in the volume service.",
        code="volume_unacceptable",
    )


def portal(volume: str, text: str, usual: int) -> tuple[str, int]:
    """``host:port`` or ``[address]:port`` as a pair; ``usual`` is the port where none is told."""
    host, colon, port = str(text).rpartition(":")
    if not colon or port.endswith("]") or (host.count(":") and not host.startswith("[")):
        host, port = str(text), ""
    try:
        return host.strip("[]"), int(port) if port else usual
    except ValueError:
        raise unacceptable(volume, f"has no port in {text!r}") from None


def addresses(connection: Connection, usual: int) -> tuple[tuple[str, int], ...]:
    """``hosts`` and ``ports``, two lists of one length, as pairs."""
    hosts = [str(host).strip("[]") for host in connection.need("hosts")]
    ports = connection.data.get("ports") or [usual] * len(hosts)
    if len(hosts) != len(ports):
        raise unacceptable(connection.volume, f"has {len(hosts)} hosts and {len(ports)} ports")
    try:
        return tuple(zip(hosts, map(int, ports), strict=True))
    except (TypeError, ValueError):
        raise unacceptable(connection.volume, f"has no ports in {ports!r}") from None
