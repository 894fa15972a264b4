"""Adapters of the volume port: nobody, or the embedded control plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from compute.errors import Refused, from_dict

Context = Mapping[str, Any]


class NoVolumes:
    """For a host without a volume service: there are no volumes."""

    def show(self, context: Context, volume_id: str) -> Mapping[str, Any]:
        """Raises Refused(code='volume_not_found')."""
        _nobody(volume_id)

    def create(self, context: Context, size_gb: int, name: str, image_id: str | None = None,
               snapshot_id: str | None = None, volume_type: str | None = None,
               source_volume_id: str | None = None) -> str:
        """Raises Refused(code='volume_not_found')."""
        _nobody(name)

    def delete(self, context: Context, volume_id: str) -> None:
        """There is none."""

    def attachment_create(self, context: Context, volume_id: str, guest: str) -> str:
        """Raises Refused(code='volume_not_found')."""
        _nobody(volume_id)

    def attachment_update(self, context: Context, attachment_id: str,
                          connector: Mapping[str, Any], mountpoint: str) -> dict[str, Any]:
        """Raises Refused(code='volume_not_found')."""
        _nobody(f"attachment {attachment_id}")

    def attachment_complete(self, context: Context, attachment_id: str) -> None:
        """Raises Refused(code='volume_not_found')."""
        _nobody(f"attachment {attachment_id}")

    def attachment_delete(self, context: Context, attachment_id: str) -> None:
        """There is none."""

    def roll_detaching(self, context: Context, volume_id: str) -> None:
        """There is none."""

    def migrate_completion(self, context: Context, old_id: str, new_id: str,
                           error: bool) -> Mapping[str, Any]:
        """Raises Refused(code='volume_not_found')."""
        _nobody(old_id)


def _nobody(what: str) -> NoReturn:
    raise Refused(f"The volume {what} is asked for, and this host has no volume service.",
                  now="Nothing was done.",
                  next="Set [DEFAULT] volume_service on the host.", code="volume_not_found")


class _Caller(Protocol):
    def magnetar(self, context: Context, method: str, **args: Any) -> Any: ...


class EmbeddedVolumes:
    """Asks the embedded control plane, which keeps volumes and attachments. See
    :class:`compute.engine.world.Volumes`."""

    def __init__(self, conductor: _Caller):
        self.conductor = conductor

    def _ask(self, context: Context, method: str, **args: Any) -> Any:
        answer = self.conductor.magnetar(context, f"volume_{method}", **args)
        if "error" in answer:
            raise from_dict(answer["error"])
        return answer["result"]

    def show(self, context: Context, volume_id: str) -> Mapping[str, Any]:
        """A volume as it is."""
        return self._ask(context, "show", volume_id=volume_id)

    def create(self, context: Context, size_gb: int, name: str, image_id: str | None = None,
               snapshot_id: str | None = None, volume_type: str | None = None,
               source_volume_id: str | None = None) -> str:
        """A new volume's id. There are no snapshots and no types of volumes here."""
        if snapshot_id or volume_type:
            raise Refused("The embedded volume service knows no snapshots and no types of volumes.",
                          now="No volume was made.", next="Leave them out.",
                          code="volume_unavailable")
        return self._ask(context, "create", size_gb=size_gb, name=name, image_id=image_id,
                         source_volume_id=source_volume_id)

    def delete(self, context: Context, volume_id: str) -> None:
        """Delete a volume that nobody uses. Quiet if it is gone."""
        self._ask(context, "delete", volume_id=volume_id)

    def attachment_create(self, context: Context, volume_id: str, guest: str) -> str:
        """Reserve a volume for a guest; the attachment's id."""
        return self._ask(context, "attachment_create", volume_id=volume_id, instance_uuid=guest)

    def attachment_update(self, context: Context, attachment_id: str,
                          connector: Mapping[str, Any], mountpoint: str) -> dict[str, Any]:
        """Access for this host; asked again with the same it gives the same."""
        return self._ask(context, "attachment_update", attachment_id=attachment_id,
                         connector=dict(connector), mountpoint=mountpoint)

    def attachment_complete(self, context: Context, attachment_id: str) -> None:
        """The volume is attached."""
        self._ask(context, "attachment_complete", attachment_id=attachment_id)

    def attachment_delete(self, context: Context, attachment_id: str) -> None:
        """Give the volume back. Quiet if it is gone."""
        self._ask(context, "attachment_delete", attachment_id=attachment_id)

    def roll_detaching(self, context: Context, volume_id: str) -> None:
        """A detach that was begun does not take place."""
        self._ask(context, "roll_detaching", volume_id=volume_id)

    def migrate_completion(self, context: Context, old_id: str, new_id: str,
                           error: bool) -> Mapping[str, Any]:
        """{save_volume_id}: the new one, with ``error`` the old one."""
        return self._ask(context, "migrate_completion", old_id=old_id, new_id=new_id, error=error)
