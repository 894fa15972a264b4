"""Memory that the host cannot read: AMD SEV, and SEV-ES, which encrypts registers as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virt.storage.firmware import Wish
from virt.wishes import Wishes, refuse
from virt.xml.domain import Domain
from virt.xml.memory import LaunchSecurity, MemoryBacking

if TYPE_CHECKING:
    from virt.libvirt.builder import Plan

SEV, SEV_ES = "amd-sev", "amd-sev-es"
# No debugging, no sharing of keys, not to other platforms, SEV; and the registers.
POLICIES = {SEV: "0x0033", SEV_ES: "0x0037"}


def decide(wishes: Wishes, uefi: Wish | None) -> str | None:
    """The kind of encryption that flavor or image ask for. Raises Failed by name."""
    wanted, model = wishes.yes("mem_encryption"), wishes.choice("mem_encryption_model",
                                                               tuple(POLICIES))  # fmt: skip
    if not wanted:
        if model is not None:
            source, name, value = wishes.said("mem_encryption_model") or ("flavor", "", model)
            refuse(source, name, value, "a model beside hw:mem_encryption=true")
        return None
    if uefi is None:
        source, name, value = wishes.said("mem_encryption") or ("flavor", "hw:mem_encryption", "")
        refuse(source, name, value, "false without hw_firmware_type=uefi")
    return model or SEV


def encrypt(domain: Domain, plan: Plan) -> None:
    """Encrypted memory cannot move on the host, and devices only reach what the guest shows."""
    model = plan.hardware.encryption
    if model is None:
        return
    domain.launch_security = LaunchSecurity(type="sev", policy=POLICIES[model])
    if domain.memory_backing is None:
        domain.memory_backing = MemoryBacking()
    backing = domain.memory_backing
    backing.locked = True
    domain.memory_backing = backing
    domain.features.vmcoreinfo = None  # tells the host where the guest's kernel is
    devices = domain.devices
    for device in (
        *(disk for disk in devices.disks if disk.bus == "virtio"),
        *(nic for nic in devices.interfaces if nic.model == "virtio"),
        *(each for each in devices.controllers if each.type == "scsi"),
        *(video for video in devices.videos if video.model == "virtio"),
        *(each for each in devices.inputs if each.bus == "virtio"),
        *devices.rngs,
        *(each for each in devices.balloons if each.model == "virtio"),
    ):
        device.iommu = True
