"""Images in a local directory: ``<directory>/<id>`` holds the bytes, ``<id>.json`` what it is.

The bytes get their final name last and lose it first, so that an image which is active is whole.
One that is to be filled by a host is described before that, with status ``queued``.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import IO, Any

from oslo_log import log

from compute import concurrency
from compute.errors import Failed, Refused
from compute.model.guest import Image
from virt.storage import files, inspect

LOG = log.getLogger(__name__)
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
FORMATS = ("qcow2", "raw", "vmdk", "vdi", "vhd", "vhdx", "iso", "ami", "ari", "aki", "ploop")
HASH = "sha512"  # as image services use
BLOCK = 1024 * 1024
QUEUED, UPLOAD = "queued", ".upload"
LEFTOVER_AGE = 3600  # seconds; nobody takes that long from the description to the bytes

Cancel = Callable[[], None]
Progress = Callable[[int, int], None]


def _no_cancel() -> None:
    pass


def _no_progress(done: int, total: int) -> None:
    pass


class LocalImages:
    """The images of one directory. An ImageSource (see virt/driver.py) and the ways to fill it."""

    def __init__(self, directory: str):
        self._directory = os.path.abspath(directory)

    def show(self, image_id: str) -> Image:
        """Describe an image.

        :raises Refused: code ``image_not_found``, for a malformed id too.
        :raises Failed: code ``image_unreadable``, if its description is damaged.
        """
        self._known(image_id)
        path = self._file(image_id, ".json")
        try:
            with files.explained(f"Reading the description of image {image_id}"):
                image = _image(image_id, files.read_json(path))
        except (ValueError, TypeError, KeyError) as error:
            raise Failed(
                f"The description of image {image_id} cannot be read: {path} ({error}).",
                now="Nothing was changed; the image cannot be used.",
                next="Restore the file, or delete the image and upload it again.",
                code="image_unreadable",
            ) from error
        if image.status != QUEUED:
            self._path(image_id)
        return image

    def list(self) -> list[Image]:
        """All images, the oldest first; those with a damaged description are left out."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        found = []
        for name in {name.removesuffix(".json") for name in names}:
            if not ID.fullmatch(name):
                continue
            try:
                image = self.show(name)
                suffix = ".json" if image.status == QUEUED else ""
                found.append((os.stat(self._file(name, suffix)).st_mtime_ns, image))
            except (OSError, Refused, Failed) as error:
                LOG.debug("Image %s is left out of the list: %s", name, error)
        return [image for _, image in sorted(found, key=lambda pair: (pair[0], pair[1].id))]

    def find(
        self, context: Mapping[str, Any], properties: Mapping[str, str]
    ) -> tuple[Image, ...]:
        """See :class:`compute.engine.world.Images`."""
        wanted = properties.items()
        found = reversed(self.list())
        return tuple(image for image in found if wanted <= image.properties.items())

    def status(self, context: Mapping[str, Any], image_id: str) -> str | None:
        """See :class:`compute.engine.world.Images`."""
        try:
            return self.show(image_id).status
        except Refused as error:
            if error.code != "image_not_found":
                raise
            return None

    def create(
        self,
        source: str | IO[bytes],
        *,
        disk_format: str,
        name: str = "",
        image_id: str | None = None,
        container_format: str = "bare",
        min_disk: int = 0,
        min_ram: int = 0,
        properties: Mapping[str, str] | None = None,
        progress: Progress = _no_progress,
        cancel: Cancel = _no_cancel,
    ) -> Image:
        """Store an image.

        :param source: path of a file, or a stream of bytes that is read to its end.
        :param min_disk: GiB. :param min_ram: MiB.
        :param progress: called with bytes done and in all (0 when not known).
        :raises Refused: code ``image_exists``, ``invalid_image``, ``image_file_unreadable``, or
            ``image_unacceptable`` when it is not what it is declared as, or unsafe to use.
        :raises Retryable: code ``disk_full``.
        """
        image_id = image_id or str(uuid.uuid4())
        path = self._checked(image_id, disk_format, min_disk, min_ram)
        part = files.part_name(path)
        try:
            with files.explained(f"Storing image {name or image_id}", "Nothing of it is kept."):
                files.make_dirs(self._directory)
                self._remove_leftovers()
                with _opened(source) as stream:
                    size, digest = _store(stream, part, progress, cancel)
                image = Image(
                    id=image_id,
                    name=name,
                    disk_format=disk_format,
                    container_format=container_format,
                    size=size,
                    min_disk=min_disk,
                    min_ram=min_ram,
                    hash_algo=HASH,
                    hash_value=digest,
                    properties=dict(properties or {}),
                )
                _inspect(part, image)
                files.write_json(path + ".json", asdict(image), mode=0o644)
                files.publish(part, path)
        finally:
            files.remove(part)
        return image

    def reserve(
        self, *, name: str, min_disk: int, min_ram: int, properties: Mapping[str, str],
        image_id: str | None = None,
    ) -> Image:
        """Describe an image that a host will fill. Raises Refused(code='image_exists')."""
        image_id = image_id or str(uuid.uuid4())
        path = self._checked(image_id, "raw", min_disk, min_ram)
        image = Image(id=image_id, name=name, min_disk=min_disk, min_ram=min_ram, status=QUEUED,
                      properties=dict(properties))
        with files.explained(f"Describing image {name}", "Nothing of it is kept."):
            files.make_dirs(self._directory)
            files.write_json(path + ".json", asdict(image), mode=0o644)
        return image

    def upload(
        self, context: Mapping[str, Any], image_id: str, path: str, disk_format: str,
        progress: Progress, cancel: Cancel,
    ) -> None:
        """See :class:`compute.engine.world.Images`."""
        image, part = self.show(image_id), self._file(image_id, UPLOAD)
        if image.status != QUEUED:
            return
        try:
            with files.explained(f"Storing image {image.name or image_id}", "It is still empty."):
                files.remove(part)
                with open(path, "rb") as stream:
                    size, digest = _store(stream, part, progress, cancel)
                image = replace(image, disk_format=disk_format, size=size, hash_algo=HASH,
                                hash_value=digest, status="active")
                _inspect(part, image)
                files.publish(part, self._file(image_id, ""))
                description = self._file(image_id, ".json")
                files.write_json(description, asdict(image), mode=0o644)  # this makes it active
        finally:
            files.remove(part)

    def delete(self, image_id: str) -> None:
        """Remove an image. Copies in the cache, and guests made from it, stay.

        :raises Refused: code ``image_not_found``.
        """
        self._known(image_id)
        with files.explained(f"Deleting image {image_id}"):
            for suffix in ("", ".json", UPLOAD):
                files.remove(self._file(image_id, suffix))
            files.fsync_dir(self._directory)

    def remove(self, context: Mapping[str, Any], image_id: str) -> None:
        """See :class:`compute.engine.world.Images`."""
        try:
            self.delete(image_id)
        except Refused as error:
            if error.code != "image_not_found":
                raise

    def download(self, image_id: str, path: str, progress: Progress, cancel: Cancel) -> None:
        """Write an image's bytes to ``path``; shares them with it where the file system can.

        :raises Refused: code ``image_not_found``.
        :raises Retryable: code ``disk_full``.
        :raises Failed: code ``storage_failed``.
        """
        source = self._path(image_id)
        with files.explained(f"Copying image {image_id}", "What was copied is incomplete."):
            files.copy(source, path, progress, cancel)

    def _waits(self, image_id: str) -> bool:
        """Whether an image is still to be filled."""
        try:
            return self.show(image_id).status == QUEUED
        except (Refused, Failed):
            return False

    def _known(self, image_id: str) -> None:
        """Raise Refused unless there is an image, or its description."""
        if not ID.fullmatch(image_id) or not os.path.exists(self._file(image_id, ".json")):
            self._path(image_id)

    def _file(self, image_id: str, suffix: str) -> str:
        return os.path.join(self._directory, image_id + suffix)

    def _path(self, image_id: str) -> str:
        """Path of an image that exists."""
        path = os.path.join(self._directory, image_id) if ID.fullmatch(image_id) else ""
        if not path or not os.path.exists(path):
            raise Refused(
                f"There is no image {image_id!r}.",
                now="Nothing was done.",
                next="List the images, and name one of them by its id.",
                code="image_not_found",
            )
        return path

    def _checked(self, image_id: str, disk_format: str, min_disk: int, min_ram: int) -> str:
        problem = ""
        if not ID.fullmatch(image_id):
            problem = f"The id {image_id!r} is not made of letters, digits, '-' and '_'."
        elif disk_format not in FORMATS:
            problem = f"The disk format {disk_format!r} is not one of {', '.join(FORMATS)}."
        elif min_disk < 0 or min_ram < 0:
            problem = "The least disk and memory cannot be negative."
        if problem:
            raise Refused(
                problem,
                now="No image was stored.",
                next="Correct the value and try again.",
                code="invalid_image",
            )
        path = self._file(image_id, "")
        if os.path.exists(path) or self._waits(image_id):
            raise Refused(
                f"There is an image {image_id} already.",
                now="It was not changed.",
                next="Delete it first, or leave out the id to get a new one.",
                code="image_exists",
            )
        return path

    def _remove_leftovers(self) -> None:
        """Remove what a dead process left of an image that it was storing."""
        for entry in os.scandir(self._directory):
            image_id = entry.name.removesuffix(".json")
            described = image_id != entry.name and ID.fullmatch(image_id)
            if files.is_dead_part(entry.name) or (
                described
                and not os.path.exists(os.path.join(self._directory, image_id))
                and time.time() - entry.stat().st_mtime > LEFTOVER_AGE
                and not self._waits(image_id)
            ):
                files.remove(entry.path)


def _image(image_id: str, record: dict[str, Any]) -> Image:
    """An image from its description. Raises KeyError, TypeError, ValueError."""
    properties = record.get("properties") or {}
    if record.get("id") != image_id or not isinstance(properties, dict):
        raise ValueError("it describes another image, or has no properties")
    return Image(
        id=image_id,
        name=str(record.get("name", "")),
        disk_format=str(record["disk_format"]),
        container_format=str(record.get("container_format", "bare")),
        size=int(record["size"]),
        min_disk=int(record.get("min_disk", 0)),
        min_ram=int(record.get("min_ram", 0)),
        hash_algo=str(record.get("hash_algo", "")),
        hash_value=str(record.get("hash_value", "")),
        properties={str(key): str(value) for key, value in properties.items()},
        status=QUEUED if record.get("status") == QUEUED else "active",
    )


def _inspect(path: str, image: Image) -> None:
    """Look into what was uploaded as a host will before it uses it: whoever uploads it is told, not
    whoever boots it. Raises Refused(code='image_unacceptable'), OSError."""
    if image.disk_format not in inspect.ACCEPTED:
        return  # kept for who can use it; no host here takes it
    try:
        inspect.inspect(path, replace(image, id=image.name or image.id))
    except Failed as error:
        if error.code != "image_unacceptable":
            raise
        raise Refused(
            error.what,
            now="Nothing of it was stored.",
            next="Upload a plain qcow2 or raw image, with the disk format that it has: "
            "'qemu-img convert -O qcow2 FILE NEW' makes one of any other.",
            code="image_unacceptable",
        ) from error


def _opened(source: str | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    if not isinstance(source, (str, os.PathLike)):
        return nullcontext(source)
    try:
        return open(source, "rb")
    except OSError as error:
        raise Refused(
            f"The file {source} cannot be read ({error.strerror}).",
            now="No image was stored.",
            next="Name a file that exists and that the agent may read.",
            code="image_file_unreadable",
        ) from error


def _store(
    stream: IO[bytes], path: str, progress: Progress, cancel: Cancel
) -> tuple[int, str]:
    """Write a stream to a new file, leaving holes for zeros; returns size and hash."""
    digest = hashlib.new(HASH, usedforsecurity=False)
    size = 0
    with open(path, "xb") as file:
        while chunk := stream.read(BLOCK):  # here: a green socket cannot be read elsewhere
            cancel()
            concurrency.native(_absorb, file, digest, chunk)
            size += len(chunk)
            progress(size, 0)
        file.truncate(size)
    return size, digest.hexdigest()


def _absorb(file: IO[bytes], digest: Any, chunk: bytes) -> None:
    digest.update(chunk)
    if chunk == bytes(len(chunk)):
        file.seek(len(chunk), os.SEEK_CUR)
    else:
        file.write(chunk)
