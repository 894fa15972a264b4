"""UEFI firmware: what a guest wants, what this host has, and the file with the guest's variables.

Firmware is found by the descriptions that distributions put beside it (QEMU's firmware.json). The
guest's own copy of the variables is a file of its directory, so that it is made, kept, moved and
deleted with its disks. A guest keeps the size of its first copy: firmware of another layout would
not find its variables.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from oslo_log import log

from compute.model.guest import Guest
from virt.wishes import Wishes, lacking, refuse

LOG = log.getLogger(__name__)
PLACES = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")  # a name in the first one wins
FILE = "nvram.fd"
KIND = "nvram"  # role and device of that file among the guest's disks
TYPES = ("bios", "uefi")
SECURE_BOOT = ("required", "disabled", "optional")
ARCH = "x86_64"


@dataclass(frozen=True)
class Firmware:
    """One firmware: ``template`` are its pristine variables of ``size`` bytes, none if it keeps
    no variables at all."""

    loader: str
    template: str | None
    size: int
    secure: bool
    smm: bool


@dataclass(frozen=True)
class Wish:
    """What kind of UEFI a guest wants."""

    secure: bool = False
    stateless: bool = False

    def words(self) -> str:
        """For people."""
        return "UEFI firmware" + " with Secure Boot" * self.secure \
            + " that keeps no variables" * self.stateless


def wish(guest: Guest) -> Wish | None:
    """The UEFI that a guest wants, None for a BIOS. Raises Failed by name.

    Secure Boot that is optional is decided once and recorded then (``os_secure_boot``).
    """
    wishes = Wishes(guest)
    kind = wishes.word("hw_firmware_type", TYPES, "bios")
    secure = _secure(wishes)
    stateless = bool(wishes.switch("image", "hw_firmware_stateless"))
    if kind == "bios":
        if secure == "required":
            refuse("image", "hw_firmware_type", kind, "uefi, which Secure Boot needs")
        if stateless:
            refuse("image", "hw_firmware_stateless", True, "false with a BIOS")
        return None
    if secure == "optional":
        return Wish(find(Wish(True, stateless)) is not None, stateless)
    return Wish(secure == "required", stateless)


def _secure(wishes: Wishes) -> str:
    flavor = wishes.spec("os:secure_boot", SECURE_BOOT) or "optional"
    image = wishes.word("os_secure_boot", SECURE_BOOT, "disabled"
                        if "os:secure_boot" not in wishes.specs else "optional")  # fmt: skip
    if "optional" in (flavor, image):
        return image if flavor == "optional" else flavor
    if flavor != image:
        refuse("image", "os_secure_boot", image, f"{flavor}, as the flavor says")
    return flavor


def find(wanted: Wish, size: int | None = None) -> Firmware | None:
    """The best firmware of this host for a wish; None when there is none.

    :param size: of the variables that the guest has already, in bytes.
    """
    for found in _offered():
        fits = found.secure == wanted.secure and (found.template is None) == wanted.stateless
        if fits and size in (None, found.size):
            return found
    return None


def required(wanted: Wish, size: int | None = None) -> Firmware:
    """Like :func:`find`. Raises Refused(code='host_unfit')."""
    found = find(wanted, size)
    if found is None:
        raise lacking(f"This host has no {wanted.words()}"
                      + (f" whose variables take {size} bytes." if size else "."),
                      "Install the package ovmf here, or choose another host.")  # fmt: skip
    return found


def _offered() -> Iterator[Firmware]:
    """What is described and there, in the order of the file names, which is that of preference."""
    paths: dict[str, str] = {}
    for place in reversed(PLACES):
        if os.path.isdir(place):
            paths |= {name: os.path.join(place, name) for name in os.listdir(place)
                      if name.endswith(".json")}
    for name in sorted(paths):
        try:
            with open(paths[name], encoding="utf-8") as file:
                text = file.read()
            found = _read(json.loads(text)) if text else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            LOG.warning("The description of a firmware, %s, cannot be read: %s", paths[name], error)
            continue
        if found is not None:
            yield found


def _read(told: Mapping[str, Any]) -> Firmware | None:
    """One description; None for firmware of other kinds."""
    mapping, features = told["mapping"], set(told.get("features") or ())
    mode = mapping.get("mode", "split")
    machines = [machine for target in told["targets"] if target["architecture"] == ARCH
                for machine in target["machines"]]
    if "uefi" not in told["interface-types"] or mapping.get("device") != "flash":
        return None
    if mode not in ("split", "stateless") or not any("q35" in each for each in machines):
        return None
    secure = {"secure-boot", "enrolled-keys"} <= features
    if "secure-boot" in features and not secure:
        return None  # boots everything until somebody enrols keys, which nobody here does
    loader = mapping["executable"]["filename"]
    template = mapping["nvram-template"]["filename"] if mode == "split" else None
    there = os.path.exists(loader) and (template is None or os.path.exists(template))
    size = os.stat(template).st_size if template and there else 0
    return Firmware(loader, template, size, secure, "requires-smm" in features) if there else None
