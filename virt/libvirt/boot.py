"""UEFI in a domain: which firmware, and where the guest's variables are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compute.errors import Failed
from virt.storage.firmware import KIND, Wish
from virt.xml.domain import Domain

if TYPE_CHECKING:
    from virt.libvirt.builder import Plan


def recorded(wish: Wish | None) -> dict[str, str]:
    """What has to stay so for the guest's life, as image properties."""
    if wish is None:
        return {}
    return {"hw_firmware_type": "uefi",
            "os_secure_boot": "required" if wish.secure else "disabled"}  # fmt: skip


def uefi(domain: Domain, plan: Plan) -> None:
    if plan.firmware is None or plan.hardware.firmware is None:
        return
    domain.os.loader, domain.os.loader_type = plan.firmware.loader, "pflash"
    domain.os.loader_readonly, domain.os.loader_secure = True, plan.firmware.secure
    if plan.firmware.smm:
        domain.features.smm = True
    if plan.hardware.firmware.stateless:
        domain.os.loader_stateless = True
        return
    kept = [disk.path for disk in plan.disks if disk.role == KIND]
    if plan.disks and not kept:
        raise Failed(
            f"Guest {plan.guest.uuid} boots with UEFI, and has no file for its variables.",
            now="Its definition was not changed.",
            next="It was made for a BIOS: set its hw_firmware_type to bios, or rebuild it.",
            code="disks_missing",
        )
    domain.os.nvram = kept[0] if kept else None
