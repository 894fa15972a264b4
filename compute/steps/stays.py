"""What keeps a guest on its host while it is off: state that nothing on this side can carry."""

from __future__ import annotations

from compute.errors import Refused
from compute.model.guest import Guest
from virt.wishes import Wishes


def refuse(guest: Guest, doing: str) -> None:
    """Refuse to let a guest that is off change its host when something of it would be lost.

    :param doing: what was asked for, as "move to host h2".
    :raises Refused: code ``tpm_stays``.
    """
    if Wishes(guest).said("tpm_version", agree=False) is not None:
        raise Refused(
            f"Guest {guest.uuid} has a TPM and cannot {doing} while it is off: libvirt keeps the "
            "TPM's state on the guest's host, and only a live migration carries it.",
            now="The guest was not touched.",
            next="Migrate it live, or change its size on its own host.", code="tpm_stays")
