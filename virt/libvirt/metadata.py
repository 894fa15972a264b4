"""What we write into a domain's metadata, and how we read our ownership back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata as packages

from compute.model.guest import Guest, Nic
from virt.libvirt.ownership import FOREIGN, Owned
from virt.xml import metadata as xml

try:
    VERSION = packages.version("magnetar")
except packages.PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0"


def describe(guest: Guest, nics: Sequence[Nic], generation: int, operation: str) -> xml.Metadata:
    """Our proof of ownership, and Nova's description for the tools that read it."""
    return xml.Metadata(
        ownership=xml.Ownership(generation=generation, operation=operation),
        nova=_nova(guest, nics),
    )


def _nova(guest: Guest, nics: Sequence[Nic]) -> xml.NovaInstance:
    flavor = guest.flavor
    described = xml.NovaInstance(
        package=VERSION,
        name=_printable(guest.display_name),
        created=guest.created_at or datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        flavor=xml.NovaFlavor(
            name=_printable(flavor.name), memory=flavor.memory_mb, disk=flavor.root_gb,
            swap=flavor.swap_mb, ephemeral=flavor.ephemeral_gb, vcpus=flavor.vcpus,
        ),
        owner=xml.NovaOwner(
            user=xml.NovaUser(uuid=guest.user_id), project=xml.NovaProject(uuid=guest.project_id)
        ),
    )  # fmt: skip
    if guest.image is not None:
        described.root = xml.NovaRoot(type="image", uuid=guest.image.id)
    described.ports = xml.NovaPorts(ports=[_port(nic) for nic in nics])
    return described


def _printable(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(sign for sign in text if sign.isprintable())


def _port(nic: Nic) -> xml.NovaPort:
    return xml.NovaPort(
        uuid=nic.id,
        addresses=[
            xml.NovaIP(type="fixed", address=address.address, version=address.version)
            for address in nic.addresses
        ],
    )


def read(text: str) -> Owned:
    """The ownership in a domain's own element of metadata; foreign if it is not readable."""
    try:
        element = xml.OwnershipText.parse(text)
        return Owned(True, element.generation or 0, element.operation or "")
    except ValueError:
        return FOREIGN
