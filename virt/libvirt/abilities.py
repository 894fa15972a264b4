"""What guests can have on this host, as libvirt, QEMU and the host's files say.

Decisions (:mod:`virt.libvirt.hardware`) say what a guest shall get; here is looked whether this
host has it, and everything that is missing is named at once. Another host may have it, so these
refusals let the scheduler try again; the traits that the host reports come from the same facts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compute.model.guest import Guest
from virt.storage import firmware
from virt.wishes import lacking
from virt.xml.capabilities import (
    DevicesSupport,
    DomainCapabilities,
    FeaturesSupport,
    SEVSupport,
    TPMSupport,
    VideoSupport,
)
from virt.xml.cpu import CPU, CPUFeature

if TYPE_CHECKING:
    from virt.libvirt.hardware import Hardware

MOST_SHARES = 10000  # of cgroup v2
CGROUP2 = "/sys/fs/cgroup/cgroup.controllers"


@dataclass(frozen=True)
class Abilities:
    """``models`` are CPU models and whether each can run here, ``flags`` the CPU flags that guests
    can have, ``videos`` video cards, ``tpm_models`` and ``tpm_versions`` what swtpm offers.
    ``libvirt`` and ``qemu`` are versions as libvirt counts them: 9000000 is 9.0.0."""

    models: dict[str, bool] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()
    videos: frozenset[str] = frozenset()
    tpm_models: frozenset[str] = frozenset()
    tpm_versions: frozenset[str] = frozenset()
    sev: bool = False
    sev_es: bool = False
    libvirt: int = 0
    qemu: int = 0


@dataclass(frozen=True)
class Missing:
    """One thing that a guest needs and this host has not, and what mends it."""

    what: str
    next: str = "Choose another host."


def parse(text: str, guest_flags: frozenset[str], libvirt: int, qemu: int) -> Abilities:
    """Read libvirt's domain capabilities.

    :param guest_flags: see :func:`host_model` for how they are found.
    :param libvirt: version as libvirt counts it: 9000000 is 9.0.0; ``qemu`` alike.
    """
    document = DomainCapabilities.parse(text)
    devices = document.devices or DevicesSupport()
    video, tpm = devices.video or VideoSupport(), devices.tpm or TPMSupport()
    sev = (document.features or FeaturesSupport()).sev or SEVSupport()
    emulated = "emulator" in tpm.among("backendModel")
    return Abilities(
        models=cpu_models(document),
        flags=guest_flags,
        videos=video.among("modelType"),
        tpm_models=tpm.among("model") if emulated else frozenset(),
        tpm_versions=(tpm.among("backendVersion") or frozenset(("1.2", "2.0"))) if emulated
        else frozenset(),
        sev=bool(sev.supported),
        sev_es=bool(sev.supported and sev.most_es),
        libvirt=libvirt,
        qemu=qemu,
    )  # fmt: skip


def cpu_models(document: DomainCapabilities) -> dict[str, bool]:
    """Models for a custom CPU, and which can run here."""
    modes = document.cpu.modes if document.cpu is not None else []
    return {model.name: bool(model.usable) for mode in modes if mode.name == "custom"
            for model in mode.models}


def host_model(text: str) -> str | None:
    """The CPU that host-model stands for here, as a document that libvirt spells out in flags;
    None when this host offers none."""
    document = DomainCapabilities.parse(text)
    modes = document.cpu.modes if document.cpu is not None else []
    for mode in modes:
        if mode.name == "host-model" and mode.models:
            made = CPU(model=mode.models[0].name)
            made.features = [CPUFeature(policy=each.policy, name=each.name)
                             for each in mode.features]
            return made.to_xml()
    return None


def spelled_out(text: str) -> frozenset[str]:
    """The flags of a CPU that libvirt has spelled out."""
    return frozenset(each.name for each in CPU.parse(text).features if each.policy != "disable")


# -- what a guest needs ---------------------------------------------------------------------------
def check(guest: Guest, hardware: Hardware, host: Abilities) -> None:
    """Refuse what this host has not, all of it in one message.

    :raises Refused: code ``host_unfit``.
    """
    found = list(missing(guest, hardware, host))
    if found:
        raise lacking(
            "This host cannot give the guest what its flavor and image ask for: "
            + "; ".join(each.what for each in found) + ".",
            " ".join(dict.fromkeys(each.next for each in found)))


def missing(guest: Guest, hardware: Hardware, host: Abilities) -> Iterator[Missing]:
    """Everything that the guest needs and this host has not."""
    for look in CHECKS:
        yield from look(guest, hardware, host)


def _flags(guest: Guest, hardware: Hardware, host: Abilities) -> Iterator[Missing]:
    for name, wanted in hardware.flags:
        if wanted and name not in host.flags:
            yield Missing(f"no CPU flag {name}", "Choose a host whose CPU has it.")
        if not wanted and not hardware.cpu_mode:
            yield Missing(f"the CPU flag {name} cannot be taken away with [libvirt] cpu_mode=none",
                          "Set another cpu_mode.")  # fmt: skip


def _video(guest: Guest, hardware: Hardware, host: Abilities) -> Iterator[Missing]:
    if hardware.video != "none" and host.videos and hardware.video not in host.videos:
        yield Missing(f"no video card {hardware.video} in this QEMU",
                      "Set hw_video_model to one of " + ", ".join(sorted(host.videos)) + ".")


def _shares(guest: Guest, hardware: Hardware, host: Abilities) -> Iterator[Missing]:
    shares = guest.flavor.extra_specs.get("quota:cpu_shares", "0")
    if shares.isdigit() and int(shares) > MOST_SHARES and os.path.exists(CGROUP2):
        yield Missing(f"quota:cpu_shares={shares} where cgroup v2 takes {MOST_SHARES} at most",
                      f"Set it to 1 to {MOST_SHARES}.")  # fmt: skip


def _addresses(guest: Guest, hardware: Hardware, host: Abilities) -> Iterator[Missing]:
    if hardware.extras.address_mode and host.libvirt < 8007000:
        yield Missing("hw:maxphysaddr_mode needs libvirt 8.7", "Upgrade libvirt here.")
    if hardware.extras.address_mode == "passthrough" and hardware.cpu_mode != "host-passthrough":
        yield Missing("hw:maxphysaddr_mode=passthrough without [libvirt] cpu_mode=host-passthrough",
                      "Set that cpu_mode, or hw:maxphysaddr_mode=emulate.")  # fmt: skip


def _iommu(guest: Guest, hardware: Hardware, host: Abilities) -> Iterator[Missing]:
    if hardware.extras.iommu == "virtio" and host.libvirt < 8003000:
        yield Missing("an IOMMU of model virtio needs libvirt 8.3", "Set hw:viommu_model=intel.")


def _firmware(guest: Guest, hardware: Hardware, host: Abilities) -> Iterator[Missing]:
    if hardware.firmware is not None and firmware.find(hardware.firmware) is None:
        yield Missing(f"no {hardware.firmware.words()}",
                      "Install the package ovmf, or choose another host.")  # fmt: skip


def _tpm(guest: Guest, hardware: Hardware, host: Abilities) -> Iterator[Missing]:
    wanted = hardware.tpm
    if wanted is None:
        return
    if not host.tpm_models:
        yield Missing("no TPM, since swtpm is not installed",
                      "Install swtpm and swtpm-tools, and restart libvirtd.")
        return
    if wanted.version not in host.tpm_versions:
        yield Missing(f"no TPM of version {wanted.version}")
    if wanted.model not in host.tpm_models:
        yield Missing(f"no TPM of model {wanted.model}")


def _encryption(guest: Guest, hardware: Hardware, host: Abilities) -> Iterator[Missing]:
    if hardware.encryption is None:
        return
    there = host.sev_es if hardware.encryption == "amd-sev-es" else host.sev
    if not there or hardware.virt_type != "kvm":
        yield Missing(f"no memory encryption of kind {hardware.encryption}",
                      "Choose a host with an AMD CPU on which SEV is enabled.")  # fmt: skip


CHECKS: tuple[Callable[..., Iterator[Missing]], ...] = (
    _flags,
    _video,
    _shares,
    _addresses,
    _iommu,
    _firmware,
    _tpm,
    _encryption,
)
