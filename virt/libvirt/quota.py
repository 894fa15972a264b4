"""Limits that a flavor sets with its ``quota:`` extra specs."""

from __future__ import annotations

from compute.errors import Failed
from compute.model.guest import Flavor
from virt.xml.cpu import CPUTune
from virt.xml.disk import Disk
from virt.xml.interface import Bandwidth

CPU = {"cpu_shares": "shares", "cpu_period": "period", "cpu_quota": "quota"}
DISK = {
    "disk_total_bytes_sec": "total_bytes_sec",
    "disk_read_bytes_sec": "read_bytes_sec",
    "disk_write_bytes_sec": "write_bytes_sec",
    "disk_total_iops_sec": "total_iops_sec",
    "disk_read_iops_sec": "read_iops_sec",
    "disk_write_iops_sec": "write_iops_sec",
}

NIC = {f"vif_{way}bound_{what}": f"{way}_{what}"
       for way in ("in", "out") for what in ("average", "peak", "burst")}  # fmt: skip


def _number(flavor: Flavor, name: str) -> int | None:
    value = flavor.extra_specs.get(f"quota:{name}")
    if value is None:
        return None
    text = str(value).strip()
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**63):
        raise Failed(
            f"The flavor's extra spec quota:{name}={value} cannot be used here.",
            now="The guest was not defined; nothing was changed.",
            next="Set it to a whole number above 0, or remove it.",
            code="flavor_unacceptable",
        )
    return int(text)


def cputune(flavor: Flavor) -> CPUTune | None:
    """Weight and limit of CPU time, None when the flavor names none."""
    values = {prop: _number(flavor, name) for name, prop in CPU.items()}
    return CPUTune(**values) if any(values.values()) else None


def limit_disk(disk: Disk, flavor: Flavor) -> None:
    """Write the flavor's limits on throughput and operations into a disk."""
    values = {prop: _number(flavor, name) for name, prop in DISK.items()}
    for unit in ("bytes_sec", "iops_sec"):
        if values[f"total_{unit}"] and (values[f"read_{unit}"] or values[f"write_{unit}"]):
            raise Failed(
                f"The flavor sets quota:disk_total_{unit} together with disk_read_{unit} or "
                f"disk_write_{unit}.",
                now="The guest was not defined; nothing was changed.",
                next="Keep either the total or the two parts.",
                code="flavor_unacceptable",
            )
    for prop, value in values.items():
        setattr(disk, prop, value)


def bandwidth(flavor: Flavor) -> Bandwidth | None:
    """Limits of each NIC in KiB/s, as the host's traffic control keeps them; None when the flavor
    names none. A peak or burst is nothing without its average."""
    values = {prop: _number(flavor, name) for name, prop in NIC.items()}
    for way in ("in", "out"):
        if not values[f"{way}_average"] and (values[f"{way}_peak"] or values[f"{way}_burst"]):
            raise Failed(
                f"The flavor sets a peak or burst without quota:vif_{way}bound_average.",
                now="The guest was not defined; nothing was changed.",
                next=f"Set quota:vif_{way}bound_average as well, or remove the others.",
                code="flavor_unacceptable",
            )
    return Bandwidth(**values) if any(values.values()) else None
