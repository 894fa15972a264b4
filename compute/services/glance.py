"""Images of Glance, over its REST API v2. See :class:`compute.engine.world.Images`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests

from compute import concurrency
from compute.errors import Failed, MagnetarError, Refused, Retryable
from compute.model.guest import Image
from compute.services.rest import Missing, Rest
from virt.storage import files

Context = Mapping[str, Any]
Cancel = Callable[[], None]
Progress = Callable[[int, int], None]
BLOCK = 1 << 20
# Glance's fields that are no property of an image.
OWN = frozenset({
    "id", "name", "status", "visibility", "protected", "checksum", "owner", "size", "virtual_size",
    "disk_format", "container_format", "created_at", "updated_at", "tags", "self", "file", "schema",
    "min_disk", "min_ram", "os_hidden", "os_hash_algo", "os_hash_value", "locations", "direct_url",
    "stores", "members", "os_glance_importing_to_stores", "os_glance_failed_import",
})
COMING = ("queued", "saving", "uploading", "importing")
GONE = ("deleted", "pending_delete", "killed")
QUEUED = "queued"
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
BYTES = {"Content-Type": "application/octet-stream"}


class Glance:
    """An adapter of the image port.

    :param conf: the global configuration; ``[glance]`` has Nova's options.
    """

    def __init__(self, conf: Any):
        self._rest = Rest(conf, "glance", "the image service", conf.glance.num_retries,
                          service_type=conf.glance.service_type or "image", prefix="/v2")

    # -- looking -------------------------------------------------------------------------------

    def show(self, image_id: str) -> Image:
        """Describe an image. Raises Refused(code='image_not_found')."""
        return described(self._record(image_id))

    def find(self, context: Context, properties: Mapping[str, str]) -> tuple[Image, ...]:
        """The images that have all these properties, the newest first."""
        found: list[Image] = []
        path: str | None = "/images"
        query: Any = {**properties, "sort": "created_at:desc", "limit": "100"}
        while path:
            page = self._rest.call("GET", path, "look for images", params=query)
            found += [described(one) for one in page["images"] if one["status"] not in GONE]
            path, query = page.get("next"), None
            path = path and path.removeprefix("/v2")
        return tuple(image for image in found if properties.items() <= image.properties.items())

    def status(self, context: Context, image_id: str) -> str | None:
        """``queued``, ``active``; None when there is no such image."""
        try:
            return self.show(image_id).status
        except Refused as error:
            if error.code != "image_not_found":
                raise
            return None

    def _record(self, image_id: str) -> Mapping[str, Any]:
        try:
            found = self._rest.call("GET", f"/images/{image_id}", f"show image {image_id}")
        except Missing as error:
            raise _no_image(image_id) from error
        if found["status"] in GONE:
            raise _no_image(image_id)
        return found

    # -- bytes ---------------------------------------------------------------------------------

    def download(self, image_id: str, path: str, progress: Progress, cancel: Cancel) -> None:
        """Write the image's bytes to ``path``, with holes for zeros.

        :raises Refused: code ``image_not_found``.
        :raises Retryable: codes ``service_unreachable``, ``disk_full``.
        """
        doing = f"send image {image_id}"
        try:
            answer = self._rest.send("GET", f"/images/{image_id}/file", doing, stream=True)
        except Missing as error:
            raise _no_image(image_id) from error
        if answer.status_code == 204:
            raise Failed(f"Image {image_id} has no bytes yet.", now="Nothing was made from it.",
                         next="Upload it, or choose another image.", code="image_unacceptable")
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        with answer, files.explained(f"Writing image {image_id}",
                                     "What was written is incomplete."), open(path, "wb") as file:
            for block in self._blocks(answer, doing):
                cancel()
                concurrency.native(_write, file, block)
                done += len(block)
                progress(done, total)
            file.truncate(done)
        if total and done != total:
            raise self._cut(doing, f"{done} of {total} bytes came")

    def _blocks(self, answer: requests.Response, doing: str) -> Iterator[bytes]:
        try:
            yield from answer.iter_content(BLOCK)
        except requests.RequestException as error:
            raise self._cut(doing, error) from error

    @staticmethod
    def _cut(doing: str, why: Any) -> Retryable:
        return Retryable(f"The image service did not {doing} to its end: {why}.",
                         now="Nothing was made from it.", next="It is fetched again.",
                         code="service_unreachable")

    def upload(self, context: Context, image_id: str, path: str, disk_format: str,
               progress: Progress, cancel: Cancel) -> None:
        """Fill a queued image with the bytes of a file, and make it active. Quiet if it is."""
        record = self._record(image_id)
        if record["status"] not in COMING:
            return
        with files.explained(f"Reading {path}"):
            size = os.stat(path).st_size
        self._set_formats(record, disk_format)
        try:
            self._rest.send("PUT", f"/images/{image_id}/file", f"store image {image_id}",
                            data=_reading(path, size, progress, cancel), headers=BYTES, once=True)
        except Missing as error:
            raise _no_image(image_id) from error
        except Refused as error:
            raise self._not_stored(image_id, error) from error

    def _not_stored(self, image_id: str, error: Refused) -> MagnetarError:
        """An earlier attempt may still be going on there; and what is not queued is not filled."""
        if self._record(image_id)["status"] in ("saving", "uploading"):
            return Retryable(f"Image {image_id} is being stored by an earlier attempt.",
                             now="It is not whole yet.", next="It is looked at again.",
                             code="service_unreachable")
        return Failed(error.what, now="The image is still empty.", next=error.next,
                      code="image_unacceptable")

    def _set_formats(self, record: Mapping[str, Any], disk_format: str) -> None:
        wanted = {"disk_format": disk_format,
                  "container_format": record.get("container_format") or "bare"}
        changes = [{"op": "replace" if key in record else "add", "path": f"/{key}", "value": value}
                   for key, value in wanted.items() if record.get(key) != value]
        if changes:
            self._rest.call("PATCH", f"/images/{record['id']}",
                            f"describe image {record['id']}", changes, headers=PATCH)

    def remove(self, context: Context, image_id: str) -> None:
        """Remove an image, filled or not. Quiet if it is gone."""
        try:
            self._rest.call("DELETE", f"/images/{image_id}", f"delete image {image_id}")
        except Missing:
            return


def described(record: Mapping[str, Any]) -> Image:
    """An image as Glance describes it."""
    return Image(
        id=record["id"], name=record.get("name") or "",
        disk_format=record.get("disk_format") or "",
        container_format=record.get("container_format") or "bare",
        size=int(record.get("size") or 0), min_disk=int(record.get("min_disk") or 0),
        min_ram=int(record.get("min_ram") or 0), hash_algo=record.get("os_hash_algo") or "",
        hash_value=record.get("os_hash_value") or "",
        status=QUEUED if record["status"] in COMING else record["status"],
        properties={key: str(value) for key, value in record.items()
                    if key not in OWN and value is not None},
    )


def _no_image(image_id: str) -> Refused:
    return Refused(f"The image service has no image {image_id}.", now="Nothing was done.",
                   next="List the images, and name one of them by its id.", code="image_not_found")


def _write(file: Any, block: bytes) -> None:
    if block.count(0) == len(block):
        file.seek(len(block), os.SEEK_CUR)
    else:
        file.write(block)


def _reading(path: str, size: int, progress: Progress, cancel: Cancel) -> Iterator[bytes]:
    """A file's bytes, read in native threads."""
    done = 0
    with open(path, "rb") as file:
        while block := concurrency.native(file.read, BLOCK):
            cancel()
            yield block
            done += len(block)
            progress(done, size)
