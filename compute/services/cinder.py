"""Volumes of Cinder, over its REST API 3.44. See :class:`compute.engine.world.Volumes`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from compute.errors import MagnetarError, Refused
from compute.services.rest import Missing, Rest

Context = Mapping[str, Any]
MICROVERSION = "3.44"  # attachments with os-complete
UNUSED = ("creating", "downloading", "available", "error", "deleting")  # without attachments
REQUEST = "magnetar_request_id"  # metadata of volumes that are made here


class Cinder:
    """An adapter of the volume port.

    :param conf: the global configuration; ``[cinder]`` has Nova's options.
    """

    def __init__(self, conf: Any):
        cinder = conf.cinder
        kind, name, interface = _catalog(cinder.catalog_info)
        self._rest = Rest(
            conf, "cinder", "the volume service", cinder.http_retries, service_type=kind,
            service_name=name or None, interface=interface,
            region_name=cinder.os_region_name, endpoint_override=cinder.endpoint_template,
            default_microversion=MICROVERSION,
            service_token=True)  # without one nobody may delete the attachments of a server

    # -- volumes -------------------------------------------------------------------------------

    def show(self, context: Context, volume_id: str) -> Mapping[str, Any]:
        """A volume as it is."""
        found = self._volume("GET", volume_id, f"show volume {volume_id}")["volume"]
        attached = [{key: one.get(key) for key in ("attachment_id", "server_id", "host_name",
                                                   "device")}
                    for one in found.get("attachments") or ()]
        return {
            **{key: found.get(key) for key in ("id", "name", "status", "size", "volume_type",
                                               "migration_status")},
            "multiattach": bool(found.get("multiattach")),
            "bootable": str(found.get("bootable")).lower() == "true",
            "image_metadata": found.get("volume_image_metadata") or {},
            "attachments": attached + self._reserved(found),
        }

    def _reserved(self, volume: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Attachments that no host has connected; a volume lists only those that are attached."""
        if volume.get("status") in UNUSED:
            return []
        found = self._rest.call(
            "GET", "/attachments/detail", f"list the attachments of volume {volume['id']}",
            params={"volume_id": volume["id"], "status": "reserved", "all_tenants": "1"})
        return [{"attachment_id": one["id"], "server_id": one.get("instance"), "host_name": None,
                 "device": None} for one in found["attachments"]
                if one.get("status") == "reserved"]

    def create(self, context: Context, size_gb: int, name: str, image_id: str | None = None,
               snapshot_id: str | None = None, volume_type: str | None = None,
               source_volume_id: str | None = None) -> str:
        """A new volume of the guest's owner. What the same request made under the same name before
        is found again."""
        request = context.get("request_id") or ""
        doing, user = f"make volume {name}", self._as_user(context)
        known = {"name": name, "metadata": json.dumps({REQUEST: request})}
        found = self._call("GET", "/volumes", doing, params=known, **user)["volumes"]
        if found:
            return found[0]["id"]
        wanted = {"size": size_gb, "name": name, "imageRef": image_id, "snapshot_id": snapshot_id,
                  "volume_type": volume_type, "source_volid": source_volume_id,
                  "metadata": {REQUEST: request}}
        body = {"volume": {key: value for key, value in wanted.items() if value is not None}}
        return self._call("POST", "/volumes", doing, body, **user)["volume"]["id"]

    def delete(self, context: Context, volume_id: str) -> None:
        """Delete a volume that nobody uses. Quiet if it is gone."""
        try:
            self._rest.call("DELETE", f"/volumes/{volume_id}", f"delete volume {volume_id}")
        except Missing:
            return
        except Refused as error:
            raise _unavailable(error) from error

    def roll_detaching(self, context: Context, volume_id: str) -> None:
        """A detach that was begun does not take place."""
        self._volume("POST", volume_id, f"keep volume {volume_id} attached",
                     {"os-roll_detaching": {}}, action=True)

    def migrate_completion(self, context: Context, old_id: str, new_id: str,
                           error: bool) -> Mapping[str, Any]:
        """{save_volume_id}. Of two volumes that Cinder does not migrate the one that is in use."""
        if not self.show(context, old_id).get("migration_status"):
            return {"save_volume_id": old_id if error else new_id}
        body = {"os-migrate_volume_completion": {"new_volume": new_id, "error": error}}
        return self._volume("POST", old_id, f"complete the migration of volume {old_id}", body,
                            action=True)

    # -- attachments ---------------------------------------------------------------------------

    def attachment_create(self, context: Context, volume_id: str, guest: str) -> str:
        """Reserve a volume for a guest; the attachment's id."""
        body = {"attachment": {"volume_uuid": volume_id, "instance_uuid": guest,
                               "connector": None}}
        try:
            made = self._rest.call("POST", "/attachments", f"reserve volume {volume_id}", body)
        except Missing as error:
            raise _no_volume(volume_id) from error
        except Refused as error:
            raise _unavailable(error) from error
        return made["attachment"]["id"]

    def attachment_update(self, context: Context, attachment_id: str,
                          connector: Mapping[str, Any], mountpoint: str) -> dict[str, Any]:
        """Access for this host; its connection_info."""
        body = {"attachment": {"connector": {"mountpoint": mountpoint, **connector}}}
        try:
            made = self._attachment("PUT", attachment_id, "connect", body)["attachment"]
        except Refused as error:
            if error.code != "service_refused":
                raise
            made = self._attachment("GET", attachment_id, "look at")["attachment"]
            if not made.get("connection_info") or made.get("status") == "reserved":
                raise _unavailable(error) from error
        return connection_info(made)

    def attachment_complete(self, context: Context, attachment_id: str) -> None:
        """The volume is attached. Quiet if it is."""
        try:
            self._attachment("POST", attachment_id, "complete", {"os-complete": {}}, action=True)
        except MagnetarError:
            found = self._attachment("GET", attachment_id, "look at")["attachment"]
            if found.get("status") != "attached":
                raise

    def attachment_delete(self, context: Context, attachment_id: str) -> None:
        """Give the volume back. Quiet if it is gone."""
        try:
            self._rest.call("DELETE", f"/attachments/{attachment_id}",
                            f"delete attachment {attachment_id}")
        except Missing:
            return

    # -- asking --------------------------------------------------------------------------------

    def _volume(self, method: str, volume_id: str, doing: str, body: Any = None,
                action: bool = False) -> Any:
        try:
            return self._rest.call(method, f"/volumes/{volume_id}{'/action' * action}", doing, body)
        except Missing as error:
            raise _no_volume(volume_id) from error

    def _attachment(self, method: str, attachment_id: str, doing: str, body: Any = None,
                    action: bool = False) -> Any:
        try:
            return self._rest.call(method, f"/attachments/{attachment_id}{'/action' * action}",
                                   f"{doing} attachment {attachment_id}", body)
        except Missing as error:
            raise Refused(f"The volume service has no attachment {attachment_id}.",
                          now="Nothing was done.", code="attachment_not_found",
                          next="Detach the volume and attach it again.") from error

    def _call(self, method: str, path: str, doing: str, body: Any = None, **more: Any) -> Any:
        try:
            return self._rest.call(method, path, doing, body, **more)
        except Missing as error:
            raise Refused(f"The volume service cannot {doing}: {error}.", now="Nothing was done.",
                          next="Name an image, snapshot or volume that is there.",
                          code="volume_not_found") from error

    def _as_user(self, context: Context) -> dict[str, Any]:
        """What a request is sent with in the name of the guest's owner, to whom what it makes will
        belong; as the agent itself where the owner's token is not known any more."""
        token, project = context.get("auth_token"), context.get("project_id")
        endpoint = self._rest.adapter.get_endpoint() if token else None
        if not endpoint:
            return {}
        own = self._rest.session.get_project_id()
        if own and project:
            endpoint = endpoint.replace(own, project)
        return {"headers": {"X-Auth-Token": token}, "authenticated": False,
                "endpoint_override": endpoint.rstrip("/")}


def connection_info(attachment: Mapping[str, Any]) -> dict[str, Any]:
    """The connection_info as drivers of os-brick take it; Cinder answers with one flat mapping."""
    flat = dict(attachment.get("connection_info") or {})
    flat.pop("connector", None)
    kind = flat.pop("driver_volume_type", None)
    data = flat.pop("data", None) or flat
    return {"driver_volume_type": kind, "data": data, "serial": attachment.get("volume_id"),
            "status": attachment.get("status"), "instance": attachment.get("instance")}


def _catalog(info: str) -> tuple[str, str, str]:
    """Service type, name and interface of ``type:name:interfaceURL``."""
    kind, _, rest = info.partition(":")
    name, _, interface = rest.partition(":")
    return kind, name, interface.removesuffix("URL") or "public"


def _no_volume(volume_id: str) -> Refused:
    return Refused(f"The volume service has no volume {volume_id}.", now="Nothing was done.",
                   next="Look with 'openstack volume list --all-projects'.",
                   code="volume_not_found")


def _unavailable(error: Refused) -> Refused:
    return Refused(error.what, now=error.now, next=error.next, code="volume_unavailable")
