"""The image cache: ``<instances_path>/_base/<sha256 of the image id>``, with ``.json`` beside it.

A base is complete when it has its final name; everything before has a name with ``.part.``. The
JSON is written first, so that a base without one is never taken for complete. One lock for each
image, which a crash releases: held alone to make or remove a base, shared to put a disk on it.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

from compute.errors import Failed, Retryable
from compute.model.guest import CachedImage, Image
from virt.driver import Cancel, ImageSource, Progress
from virt.storage import command, files, inspect, locks

BASE = re.compile(r"[0-9a-f]{64}")
CREATE_LOCK_TIMEOUT = 60


class Cache:
    """Bases of one ``instances_path``; several processes may share it.

    :param users: returns the names of the bases that a disk of any guest is backed by; raises
        Unknown if it cannot tell.
    """

    def __init__(
        self,
        instances_path: str,
        qemu_img: command.QemuImg,
        *,
        users: Callable[[], set[str]],
        lock_timeout: float,
        force_raw: bool = False,
    ):
        self.path = os.path.join(instances_path, "_base")
        self._locks = os.path.join(instances_path, "_locks")
        self._qemu_img = qemu_img
        self._users = users
        self._lock_timeout = lock_timeout
        self._force_raw = force_raw

    def get(self, image: Image) -> CachedImage | None:
        """The complete base of an image, or None. Using it makes it young again."""
        path = self._base(image.id)
        with files.explained("Reading the image cache"):
            record = self._record(path)
        if record is None or _differs(record, image):
            return None
        with suppress(OSError):  # its age only matters to the sweep
            os.utime(path)
        return CachedImage(image.id, path, record["format"], record["virtual_size"])

    def fetch(
        self, image: Image, source: ImageSource, progress: Progress, cancel: Cancel
    ) -> CachedImage:
        """Bring an image into the cache; see :meth:`virt.driver.Driver.fetch_image`."""
        if (base := self.get(image)) is not None:
            return base
        with files.explained("Creating the image cache"):
            files.make_dirs(self.path)
            files.make_dirs(self._locks)
        with locks.locked(self._lock(image.id), self._lock_timeout, cancel):
            if (base := self.get(image)) is not None:
                return base  # the one before us in the queue has made it
            return self._make(_described(image, source), source, progress, cancel)

    @contextmanager
    def using(self, base: CachedImage) -> Iterator[None]:
        """Hold a base in place while a disk is put on it.

        :raises Retryable: code ``image_not_cached`` if it is not there any more.
        """
        with files.explained("Locking the cached image"):
            files.make_dirs(self._locks)
        with locks.locked(self._lock(base.image_id), CREATE_LOCK_TIMEOUT, shared=True):
            try:
                os.utime(base.path)
            except FileNotFoundError as error:
                raise Retryable(
                    f"The cached copy of image {base.image_id} is not there any more.",
                    now="No disk was made from it.",
                    next="It is downloaded again when the build is tried again.",
                    code="image_not_cached",
                ) from error
            yield

    def _make(
        self, image: Image, source: ImageSource, progress: Progress, cancel: Cancel
    ) -> CachedImage:
        inspect.check_declared(image)
        path = self._base(image.id)
        part = files.part_name(path)
        try:
            with files.explained(f"Downloading image {image.id}", "It is not kept."):
                files.remove_parts(self.path, os.path.basename(path))
                self._make_room(image, path)
                source.download(image.id, part, progress, cancel)
                found = self._examine(part, image, cancel)
                if self._force_raw and found.format != "raw":
                    found = self._to_raw(part, path, found)
                os.chmod(part, 0o644)  # QEMU's user reads it
                files.write_json(path + ".json", _new_record(part, image, found), mode=0o644)
                files.publish(part, path)
        finally:
            files.remove(part)
        return CachedImage(image.id, path, found.format, found.virtual_size)

    def _make_room(self, image: Image, path: str) -> None:
        """Check that the download may begin, before any byte is written."""
        if os.path.exists(path) and os.path.basename(path) in self._users():
            raise Failed(
                f"Image {image.id} has other contents now than the copy in the cache, and guests "
                "have disks on that copy.",
                now="The copy and the guests' disks are as they were.",
                next="Upload the new contents as a new image; an image's contents never change.",
                code="image_unacceptable",
            )
        free = files.free(self.path)
        if image.size > free:
            raise files.disk_full(
                f"Image {image.id} has {image.size} bytes, and {self.path} has room for {free}.",
                "Nothing was downloaded.",
            )

    def _examine(self, part: str, image: Image, cancel: Cancel) -> inspect.Inspected:
        found = inspect.inspect(part, image)
        inspect.verify_hash(part, image, cancel)
        try:
            info = self._qemu_img.info(part, found.format)
            inspect.check_info(info, found, image)
            damage = 0
            if found.format == "qcow2":
                damage = self._qemu_img.damage(part, found.virtual_size)
        except Failed as error:
            if error.code not in ("command_failed", "command_limit"):
                raise
            reason = f"qemu-img cannot read it ({error.what.rstrip('.')})"
            raise inspect.unacceptable(image.id, reason) from error
        if damage:
            raise inspect.unacceptable(image.id, f"qemu-img check finds {damage} errors in it")
        return found

    def _to_raw(self, part: str, path: str, found: inspect.Inspected) -> inspect.Inspected:
        converted = files.part_name(path)
        try:
            self._qemu_img.convert_to_raw(part, found.format, converted, found.virtual_size)
            os.replace(converted, part)
        finally:
            files.remove(converted)
        return replace(found, format="raw")

    def sweep_parts(self) -> list[str]:
        """Remove half-made downloads of dead processes; returns their paths."""
        return self._locked_sweep(self._names(), self._sweep_leftovers)

    def sweep_bases(self, in_use: Iterable[str], max_age: float) -> list[str]:
        """Remove bases that nothing uses, neither a disk nor ``in_use`` (image ids).

        Unknown names are left alone, and so is everything whose lock is held.

        :param max_age: seconds since the last use.
        :raises Unknown: it cannot be told what the guests use; no base was removed.
        """
        names = self._names()
        used = {name_of(image_id) for image_id in in_use} | self._users()
        for name in used.intersection(names):
            with suppress(FileNotFoundError):
                os.utime(os.path.join(self.path, name))  # its age begins when the last user left
        old = [name for name in names if name not in used and self._age(name) >= max_age]
        return self._locked_sweep(old, self._sweep_base)

    def _names(self) -> list[str]:
        """The names of all bases, complete or not."""
        try:
            entries = os.listdir(self.path)
        except FileNotFoundError:
            return []
        return sorted({found[0] for entry in entries if (found := BASE.match(entry))})

    def _locked_sweep(self, names: Iterable[str], sweep: Callable[[str], list[str]]) -> list[str]:
        removed: list[str] = []
        for name in names:
            files.make_dirs(self._locks)
            lock = os.path.join(self._locks, name + ".lock")
            if (fd := locks.try_lock(lock)) is None:
                continue
            with closing(os.fdopen(fd)):
                removed += sweep(os.path.join(self.path, name))
                if not os.path.exists(os.path.join(self.path, name)):
                    files.remove(lock)
        return removed

    def _sweep_leftovers(self, path: str) -> list[str]:
        """With the lock held nobody is downloading: what is half-made was left by the dead."""
        removed = files.remove_parts(self.path, os.path.basename(path))
        if not os.path.exists(path) and files.remove(path + ".json"):
            removed.append(path + ".json")
        return removed

    def _sweep_base(self, path: str) -> list[str]:
        # Asked again under the lock: a disk that is being put on the base holds it, too.
        if os.path.basename(path) in self._users():
            return []
        return [name for name in (path, path + ".json") if files.remove(name)]

    def _age(self, name: str) -> float:
        """Seconds since a base was used; of one that does not exist, none."""
        try:
            return time.time() - os.stat(os.path.join(self.path, name)).st_mtime
        except FileNotFoundError:
            return -1.0

    def _base(self, image_id: str) -> str:
        return os.path.join(self.path, name_of(image_id))

    def _lock(self, image_id: str) -> str:
        return os.path.join(self._locks, name_of(image_id) + ".lock")

    def _record(self, path: str) -> dict[str, Any] | None:
        """The JSON of a base, if both are there and agree."""
        try:
            record = files.read_json(path + ".json")
            size = os.stat(path).st_size
        except (FileNotFoundError, ValueError):
            return None
        if size != record.get("file_size") or record.get("format") not in inspect.ACCEPTED:
            return None
        return record if isinstance(record.get("virtual_size"), int) else None


def name_of(image_id: str) -> str:
    """File name of an image's base: safe whatever the id holds."""
    return hashlib.sha256(image_id.encode()).hexdigest()


def _differs(record: dict[str, Any], image: Image) -> bool:
    """Whether the image certainly has other bytes than the base was made of."""
    if not image.hash_value or record.get("hash_algo") != image.hash_algo:
        return False
    return record.get("hash_value") != image.hash_value.lower()


def _described(image: Image, source: ImageSource) -> Image:
    """The image with what only its service knows (the hash), if the caller did not bring it."""
    if image.hash_value and image.disk_format and image.size:
        return image
    known = source.show(image.id)
    return replace(
        image,
        disk_format=image.disk_format or known.disk_format,
        size=image.size or known.size,
        hash_algo=known.hash_algo,
        hash_value=known.hash_value,
    )


def _new_record(part: str, image: Image, found: inspect.Inspected) -> dict[str, Any]:
    return {
        "version": 1,
        "image_id": image.id,
        "format": found.format,
        "virtual_size": found.virtual_size,
        "file_size": os.stat(part).st_size,
        "hash_algo": image.hash_algo,
        "hash_value": image.hash_value.lower(),
    }
