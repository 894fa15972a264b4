"""A TPM that swtpm emulates, one process for each guest, its state kept by libvirt.

The state is part of a live migration, and of nothing else: libvirt keeps it below its own
directory, by the guest's uuid, so a guest with a TPM changes its host only while it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from virt.wishes import Wishes, refuse
from virt.xml import device
from virt.xml.domain import Domain

if TYPE_CHECKING:
    from virt.libvirt.builder import Plan

VERSIONS = ("1.2", "2.0")
MODELS = ("tpm-tis", "tpm-crb")


@dataclass(frozen=True)
class TPM:
    """What the guest sees."""

    version: str
    model: str


def decide(wishes: Wishes) -> TPM | None:
    """The TPM that flavor or image ask for. Raises Failed by name."""
    version = wishes.choice("tpm_version", VERSIONS)
    model = wishes.choice("tpm_model", MODELS)
    if version is None:
        if model is not None:
            source, name, value = wishes.said("tpm_model") or ("flavor", "hw:tpm_model", model)
            refuse(source, name, value, "a model beside hw:tpm_version")
        return None
    if model == "tpm-crb" and version == "1.2":
        source, name, value = wishes.said("tpm_model") or ("flavor", "hw:tpm_model", model)
        refuse(source, name, value, "tpm-tis, the only one of version 1.2")
    return TPM(version, model or "tpm-tis")


def add(domain: Domain, plan: Plan) -> None:
    wanted = plan.hardware.tpm
    if wanted is not None:
        domain.devices.add(device.TPM(model=wanted.model, backend="emulator",
                                      version=wanted.version))  # fmt: skip
