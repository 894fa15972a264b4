"""How libvirt is told to carry out a plan: flags and parameters of its migration call."""

from __future__ import annotations

from typing import Any

import libvirt

from compute.model.move import MovePlan
from virt.libvirt.rewrite import UNCACHED, Rewrite, rewrite
from virt.xml.domain import Domain

ALWAYS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_PERSIST_DEST
)


def parameters(live: str, stored: str, plan: MovePlan) -> tuple[dict[str, Any], int]:
    """Parameters and flags for a migration.

    :param live: the running domain's migratable definition.
    :param stored: the definition for its next boot.
    """
    flags = ALWAYS | _transport(plan)
    if plan.copy_disks:
        flags |= (
            libvirt.VIR_MIGRATE_NON_SHARED_INC
            if plan.incremental
            else libvirt.VIR_MIGRATE_NON_SHARED_DISK
        )
    if plan.auto_converge:
        flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
    if _surely_shared(live, plan):
        flags |= libvirt.VIR_MIGRATE_UNSAFE
    wanted = Rewrite.of(plan)
    values = {
        libvirt.VIR_MIGRATE_PARAM_DEST_XML: rewrite(live, wanted),
        libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: rewrite(stored, wanted),
        **_addresses(plan),
    }
    if plan.copy_disks:
        values[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(plan.copy_disks)
    if plan.channels > 1:
        flags |= libvirt.VIR_MIGRATE_PARALLEL
        values[libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = plan.channels
    if plan.bandwidth:
        values[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = plan.bandwidth
        if plan.postcopy:
            values[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY] = plan.bandwidth
    return values, flags


def resume_flags(plan: MovePlan) -> tuple[dict[str, Any], int]:
    """Parameters and flags to continue a broken post-copy migration."""
    flags = ALWAYS | _transport(plan) | libvirt.VIR_MIGRATE_POSTCOPY
    return _addresses(plan), flags | libvirt.VIR_MIGRATE_POSTCOPY_RESUME


def _transport(plan: MovePlan) -> int:
    flags = libvirt.VIR_MIGRATE_TLS if plan.tls else 0
    return flags | (libvirt.VIR_MIGRATE_POSTCOPY if plan.postcopy else 0)


def _addresses(plan: MovePlan) -> dict[str, Any]:
    values = {}
    if plan.migrate_uri:
        values[libvirt.VIR_MIGRATE_PARAM_URI] = plan.migrate_uri
    if plan.listen:
        values[libvirt.VIR_MIGRATE_PARAM_LISTEN_ADDRESS] = plan.listen
    return values


def _surely_shared(live: str, plan: MovePlan) -> bool:
    """Whether libvirt's check for shared storage may be passed over.

    libvirt only knows some file systems as shared, by their type. The destination found the very
    same files, which is better proof; but then nothing may be cached on the source.
    """
    if not plan.rewrite.get("volumes") and (plan.copy_disks or not plan.rewrite.get("shared")):
        return False
    disks = [disk for disk in Domain.parse(live).devices.disks
             if disk.target not in plan.copy_disks]
    return all(disk.readonly or disk.cache in UNCACHED for disk in disks)
