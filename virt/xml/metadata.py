"""What a domain or network says of itself: our ownership, and Nova's description of the guest."""

from __future__ import annotations

from virt.xml.base import INT, Child, Children, Element, Prop

OURS = "https://magnetar.dev/xmlns/1"
NOVA = "http://openstack.org/xmlns/libvirt/nova/1.1"


def _nova(tag: str) -> str:
    return f"{{{NOVA}}}{tag}"


class Ownership(Element):
    """Proof that we made a domain. ``generation`` says who owns the guest after a move."""

    tag = f"{{{OURS}}}instance"
    nsmap = {"magnetar": OURS}
    generation = Prop("@generation", INT)
    operation = Prop("@operation")


class OwnershipText(Ownership):
    """The same as libvirt's call for metadata returns it: without its namespace."""

    tag = "instance"


class NetworkOwnership(Element):
    """Proof that we made a libvirt network; ``spec`` is what was asked for, as one line."""

    tag = f"{{{OURS}}}network"
    nsmap = {"magnetar": OURS}
    spec = Prop("@spec")


class NovaFlavor(Element):
    tag = _nova("flavor")
    name = Prop("@name")
    memory = Prop(_nova("memory"), INT)
    disk = Prop(_nova("disk"), INT)
    swap = Prop(_nova("swap"), INT)
    ephemeral = Prop(_nova("ephemeral"), INT)
    vcpus = Prop(_nova("vcpus"), INT)


class NovaUser(Element):
    tag = _nova("user")
    uuid = Prop("@uuid")


class NovaProject(Element):
    tag = _nova("project")
    uuid = Prop("@uuid")


class NovaOwner(Element):
    tag = _nova("owner")
    user = Child(NovaUser)
    project = Child(NovaProject)


class NovaRoot(Element):
    tag = _nova("root")
    type = Prop("@type")
    uuid = Prop("@uuid")


class NovaIP(Element):
    tag = _nova("ip")
    type = Prop("@type")
    address = Prop("@address")
    version = Prop("@ipVersion", INT)


class NovaPort(Element):
    tag = _nova("port")
    uuid = Prop("@uuid")
    addresses = Children(NovaIP)


class NovaPorts(Element):
    tag = _nova("ports")
    ports = Children(NovaPort)


class NovaInstance(Element):
    """What tools written for Nova's domains look for."""

    tag = _nova("instance")
    nsmap = {"nova": NOVA}
    package = Prop(_nova("package") + "@version")
    name = Prop(_nova("name"))
    created = Prop(_nova("creationTime"))
    flavor = Child(NovaFlavor)
    owner = Child(NovaOwner)
    root = Child(NovaRoot)
    ports = Child(NovaPorts)


class Metadata(Element):
    tag = "metadata"
    ownership = Child(Ownership)
    network = Child(NetworkOwnership)
    nova = Child(NovaInstance)
