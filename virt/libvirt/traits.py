"""The traits of os-traits that are true here: what guests can have, and no more.

Each is found from the same facts by which guests are refused (:mod:`virt.libvirt.abilities`), so
that a scheduler which goes by traits sends no guest here in vain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from compute.model.guest import Guest
from virt.libvirt import extras, flags
from virt.libvirt.abilities import Abilities
from virt.libvirt.caps import HostCaps
from virt.storage import firmware
from virt.storage.firmware import Wish
from virt.wishes import lacking

BUSES = ("virtio", "scsi", "sata", "ide")
NICS = ("virtio", "e1000", "e1000e", "rtl8139", "ne2k_pci", "pcnet")
USB = ("qemu-xhci", "nec-xhci")  # of extras.USB, those that os-traits has
VIDEOS = frozenset(("virtio", "vga", "cirrus", "bochs", "vmvga", "qxl", "none"))
# Traits that are true here exactly when found() says so.
JUDGED = (
    "COMPUTE_FIRMWARE_", "COMPUTE_SECURITY_", "COMPUTE_GRAPHICS_", "COMPUTE_STORAGE_BUS_",
    "COMPUTE_NET_VIF_MODEL_", "COMPUTE_SOUND_", "COMPUTE_USB_", "COMPUTE_VIOMMU_",
    "COMPUTE_ADDRESS_SPACE_", "COMPUTE_MEM_BACKING_FILE", "COMPUTE_MIGRATE_", "COMPUTE_ARCH_",
    "HW_CPU_HYPERTHREADING", "HW_CPU_X86_AMD_SEV",
)  # fmt: skip
ALWAYS = (
    "COMPUTE_NODE", "COMPUTE_ARCH_X86_64", "COMPUTE_FIRMWARE_BIOS", "COMPUTE_IMAGE_TYPE_QCOW2",
    "COMPUTE_IMAGE_TYPE_RAW", "COMPUTE_NET_VIRTIO_PACKED",
)  # fmt: skip


def found(conf: Any, virt_type: str, caps: HostCaps, host: Abilities) -> tuple[str, ...]:
    """All traits of this host, sorted."""
    return tuple(sorted({
        *ALWAYS, *flags.traits(host.flags), *_models(host), *_firmware(),
        *_security(host, virt_type), *_configured(conf), *_processor(caps)}))


def refuse(guest: Guest, there: Iterable[str]) -> None:
    """Refuse a guest whose flavor or image require a trait that this host has not, or forbid one
    that it has; of those traits that are judged here. CPU flags are given or taken by themselves
    (:mod:`virt.libvirt.flags`), and what else a provider has only the scheduler knows.

    :raises Refused: code ``host_unfit``.
    """
    known, found = set(there), []
    for name, word in sorted(flags.asked(guest).items()):
        if not name.startswith(JUDGED) or flags.flag(name) is not None:
            continue
        if word == flags.REQUIRED and name not in known:
            found.append(f"{name} is required, and this host has it not")
        if word == flags.FORBIDDEN and name in known:
            found.append(f"{name} is forbidden, and this host has it")
    if found:
        raise lacking("This host is not what flavor and image ask for by traits: "
                      + "; ".join(found) + ".", "Choose another host.")  # fmt: skip


def _named(prefix: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield f"{prefix}_{value.upper().replace('-', '_')}"


def _models(host: Abilities) -> Iterator[str]:
    yield from _named("COMPUTE_STORAGE_BUS", BUSES)
    yield from _named("COMPUTE_NET_VIF_MODEL", NICS)
    yield from _named("COMPUTE_SOUND_MODEL", extras.SOUND)
    yield from _named("COMPUTE_USB_MODEL", USB)
    yield from _named("COMPUTE_GRAPHICS_MODEL", host.videos & VIDEOS)
    yield from _named("COMPUTE_VIOMMU_MODEL", ("intel",))
    if host.libvirt >= 8003000:
        yield from _named("COMPUTE_VIOMMU_MODEL", ("virtio", "auto"))
    if host.libvirt >= 8007000:
        yield "COMPUTE_ADDRESS_SPACE_EMULATED"


def _firmware() -> Iterator[str]:
    if firmware.find(Wish()) is not None:
        yield "COMPUTE_FIRMWARE_UEFI"
    if firmware.find(Wish(secure=True)) is not None:
        yield "COMPUTE_SECURITY_UEFI_SECURE_BOOT"
    if firmware.find(Wish(stateless=True)) is not None:
        yield "COMPUTE_SECURITY_STATELESS_FIRMWARE"


def _security(host: Abilities, virt_type: str) -> Iterator[str]:
    for version in host.tpm_versions:
        yield f"COMPUTE_SECURITY_TPM_{version.replace('.', '_')}"
    for model in host.tpm_models & {"tpm-tis", "tpm-crb"}:
        yield f"COMPUTE_SECURITY_{model.upper().replace('-', '_')}"
    if virt_type == "kvm" and host.sev:
        yield "HW_CPU_X86_AMD_SEV"
    if virt_type == "kvm" and host.sev_es:
        yield "HW_CPU_X86_AMD_SEV_ES"


def _configured(conf: Any) -> Iterator[str]:
    options = conf.libvirt
    if options.live_migration_permit_post_copy:
        yield "COMPUTE_MIGRATE_POST_COPY"
    if options.live_migration_permit_auto_converge:
        yield "COMPUTE_MIGRATE_AUTO_CONVERGE"
    if options.file_backed_memory:
        yield "COMPUTE_MEM_BACKING_FILE"
    if options.cpu_mode == "host-passthrough":
        yield "COMPUTE_ADDRESS_SPACE_PASSTHROUGH"


def _processor(caps: HostCaps) -> Iterator[str]:
    if any(len(group) > 1 for cell in caps.cells for group in cell.siblings):
        yield "HW_CPU_HYPERTHREADING"
