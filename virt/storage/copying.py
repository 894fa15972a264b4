"""Copies a guest's disks from a ``<uuid>_resize`` directory here, sparse, and resumable.

A file that is being copied is called ``<name>.part``; how far it is on the disk for certain is in
``copying.json``, together with the id of the directory that it comes from. A final name means a
whole file, and ``disks.json`` means that all are whole. Nothing at the source is changed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace

from compute import concurrency
from compute.errors import Failed, NeedsOperator, Retryable
from compute.model.guest import CachedImage, Disk, Image
from virt.driver import Cancel, Progress
from virt.storage import aside, command, console, files, linked, locks
from virt.storage.cache import Cache
from virt.storage.dirs import RECORD, Dirs, Record, backing_file, parse
from virt.storage.source import Source, vanished

STATE = "copying.json"
PART = ".part"
LOCK = ".copy.lock"
HEADER = 2 * 1024 * 1024  # bytes: the largest cluster of qcow2, which is what a rebase writes
SAVE_BYTES, SAVE_SECONDS = 256 * 1024 * 1024, 5.0
LOCK_TIMEOUT = 30


@dataclass
class _Copy:
    """One copy under way. ``offsets``: bytes of each file that are on the disk for certain."""

    directory: str
    source: Source
    origin: str
    progress: Progress
    cancel: Cancel
    offsets: dict[str, int] = field(default_factory=dict)
    total: int = 0
    done: int = 0

    def save(self) -> None:
        data = {"version": 1, "origin": self.origin, "offsets": self.offsets}
        files.write_json(os.path.join(self.directory, STATE), data)


class Copier:
    """Copies into the directories of one ``instances_path``."""

    def __init__(self, dirs: Dirs, cache: Cache, qemu_img: command.QemuImg):
        self._dirs, self._cache, self._qemu_img = dirs, cache, qemu_img

    def copy(
        self, uuid: str, source: Source, base: CachedImage | None, progress: Progress,
        cancel: Cancel,
    ) -> tuple[Disk, ...]:
        """Make a guest's directory from ``source``; see virt/driver.py. Idempotent.

        A base that is neither given nor in the cache is copied from the image cache beside the
        source, and inspected like any image.

        :raises Retryable: the source does not answer; what was copied is kept.
        :raises Failed: code ``disk_full``, ``disk_missing``, ``disk_unacceptable``.
        :raises NeedsOperator: code ``disk_in_the_way`` if the guest has other disks here.
        """
        directory = self._dirs.of(uuid)
        doing = f"Copying the disks of guest {uuid} from {source.where}"
        with _final_when_full(), files.explained(doing, "They are whole at their source."):
            origin, record, sizes = self._offered(uuid, source)
            own = self._dirs.record(uuid)
            if own is not None:
                if own.origin != origin:
                    raise _in_the_way(uuid, directory)
                _tidy(directory)
                return own.disks
            with self._locked(uuid, cancel):
                copy = _Copy(directory, source, origin, progress, cancel)
                self._begin(uuid, copy)
                base = self._base(record, source, base, progress, cancel)
                with self._cache.using(base) if base else nullcontext():
                    self._copy_files(copy, record, sizes, base)
                    name = os.path.basename(base.path) if base else ""
                    record = replace(record, base=name, origin=origin)
                    self._dirs.write(uuid, record)
                _tidy(directory)
        return record.disks

    def sweep(self, max_age: float) -> list[str]:
        """Remove half-copied files that no process works on: of copies that ended, and of those
        that did not get further for ``max_age`` seconds. Returns their paths."""
        removed: list[str] = []
        for uuid in self._dirs.uuids():
            state = os.path.join(self._dirs.of(uuid), STATE)
            try:
                age = time.time() - os.stat(state).st_mtime
            except FileNotFoundError:
                continue
            whole = os.path.exists(os.path.join(self._dirs.of(uuid), RECORD))
            if whole or age >= max_age:
                with self._unused(self._lock(uuid)) as unused:
                    removed += _tidy(self._dirs.of(uuid), keep_state=not whole) if unused else []
        with suppress(FileNotFoundError):
            for entry in os.scandir(self._locks):
                if entry.name.endswith(LOCK):  # what a killed process left
                    with self._unused(entry.path):
                        pass
        return removed

    # -- how ---------------------------------------------------------------------------------
    def _offered(self, uuid: str, source: Source) -> tuple[str, Record, dict[str, int]]:
        """What there is to copy: the directory's id, its record, and the files' sizes."""
        found = {}
        for name in (aside.TAG, RECORD):
            data = source.read(name)
            if data is None:
                raise vanished(f"{source.where}/{name}")
            try:
                found[name] = json.loads(data)
                if name == RECORD:
                    record = parse(found[name], self._dirs.of(uuid))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _unacceptable(f"{source.where}/{name} cannot be read ({error})") from error
        linked.stays(uuid, record.disks)
        sizes = {}
        for disk in record.disks:
            name = os.path.basename(disk.path)
            size = source.size(name)
            if size is None:
                raise vanished(f"{source.where}/{name}")
            sizes[name] = size
        for name in console.FILES:
            if (size := source.size(name)) is not None:
                sizes[name] = size
        origin = aside.tag_of(found[aside.TAG])
        if not origin:
            raise _unacceptable(f"{source.where}/{aside.TAG} holds no id")
        self._make_room(sum(allocated for _, allocated in sizes.values()), uuid)
        return origin, record, {name: size for name, (size, _) in sizes.items()}

    def _make_room(self, needed: int, uuid: str) -> None:
        """Check that the copy may begin. What an earlier attempt copied is room that it has."""
        files.make_dirs(self._dirs.path)
        with suppress(FileNotFoundError):
            needed -= sum(entry.stat(follow_symlinks=False).st_blocks * 512
                          for entry in os.scandir(self._dirs.of(uuid)))
        free = files.free(self._dirs.path)
        if needed > free:
            raise files.disk_full(
                f"The disks of guest {uuid} need {needed} bytes, and {self._dirs.path} has room "
                f"for {free}."
            )

    def _begin(self, uuid: str, copy: _Copy) -> None:
        """Make the directory, or go on with the one that an earlier attempt made."""
        try:
            state = files.read_json(os.path.join(copy.directory, STATE))
        except (FileNotFoundError, ValueError):
            state = {}
        if state.get("origin") == copy.origin and isinstance(state.get("offsets"), dict):
            copy.offsets = {str(name): int(n) for name, n in state["offsets"].items()}
            files.remove_parts(copy.directory)  # of a state that was never written to its end
            return
        if state:  # half a copy of other disks, which are whole where they came from
            self._dirs.remove_later(uuid, self._dirs.deleted)
            self._dirs.remove_for_good(self._dirs.deleted, uuid=uuid)
        elif os.path.isdir(copy.directory) and os.listdir(copy.directory):
            self._dirs.remove_later(uuid, self._dirs.quarantine)
        files.make_dirs(copy.directory)
        copy.save()

    def _base(
        self, record: Record, source: Source, base: CachedImage | None, progress: Progress,
        cancel: Cancel,
    ) -> CachedImage | None:
        """What the root disk shall be backed by here; None if it stands by itself."""
        if not record.base:
            return None
        if base is not None:
            if record.image_id not in ("", base.image_id):
                raise _unacceptable(
                    f"the root disk is backed by image {record.image_id}, and was to be put on "
                    f"image {base.image_id}"
                )
            return base
        image = Image(record.image_id)
        found = self._cache.get(image)
        if found is None:
            peer = PeerImages(source.images(), record.base)
            found = self._cache.fetch(peer.show(record.image_id), peer, progress, cancel)
        return found

    def _copy_files(
        self, copy: _Copy, record: Record, sizes: dict[str, int], base: CachedImage | None
    ) -> None:
        copy.total = sum(sizes.values())
        disks = {os.path.basename(disk.path): disk for disk in record.disks}
        for name, size in sizes.items():
            if not os.path.exists(os.path.join(copy.directory, name)):
                _copy_file(copy, name, size)
                self._publish(copy, name, disks.get(name), base)
            copy.done += size
            copy.progress(copy.done, copy.total)

    def _publish(
        self, copy: _Copy, name: str, disk: Disk | None, base: CachedImage | None
    ) -> None:
        path = os.path.join(copy.directory, name)
        part = path + PART
        if disk is not None and disk.format == "qcow2":  # as recorded; raw disks are never read
            backed = backing_file(part)
            if bool(backed) != (base is not None):
                raise _unacceptable(
                    f"the header of the {disk.role} disk names the base {backed or '(none)'}, and "
                    f"its record {base.image_id if base else '(none)'}"
                )
            if base is not None:
                self._qemu_img.rebase(part, base.path, base.format)
        os.chmod(part, 0o600 if disk is not None else 0o640)
        files.publish(part, path)

    @property
    def _locks(self) -> str:
        return os.path.join(self._dirs.path, "_locks")

    def _lock(self, uuid: str) -> str:
        return os.path.join(self._locks, uuid + LOCK)

    @contextmanager
    def _unused(self, lock: str) -> Iterator[bool]:
        """Hold a copy's lock if nobody else does, and remove it; tells whether it was free."""
        files.make_dirs(self._locks)
        if (fd := locks.try_lock(lock)) is None:
            yield False
            return
        with closing(os.fdopen(fd)):
            yield True
            files.remove(lock)

    @contextmanager
    def _locked(self, uuid: str, cancel: Cancel) -> Iterator[None]:
        files.make_dirs(self._locks)
        with locks.locked(self._lock(uuid), LOCK_TIMEOUT, cancel):
            try:
                yield
            finally:
                files.remove(self._lock(uuid))


class PeerImages:
    """The image cache of another host, as an :class:`virt.driver.ImageSource`.

    :param name: file name of the base.
    """

    def __init__(self, source: Source, name: str):
        self._source, self._name = source, name

    def show(self, image_id: str) -> Image:
        """The image as it is in that cache. Its hash is of the bytes before any conversion, and
        is therefore not taken over."""
        data, size = self._source.read(self._name + ".json"), self._source.size(self._name)
        if data is None or size is None:
            raise vanished(f"the base of the root disk, {self._source.where}/{self._name},")
        try:
            found = json.loads(data)
            return Image(image_id, disk_format=str(found["format"]), size=size[0])
        except (ValueError, KeyError, TypeError) as error:
            raise _unacceptable(f"the record of its base cannot be read ({error})") from error

    def download(self, image_id: str, path: str, progress: Progress, cancel: Cancel) -> None:
        size = (self._source.size(self._name) or (0, 0))[0]
        with open(path, "wb") as file:
            file.truncate(size)
            step_through(self._source, self._name, file.fileno(), 0, size, cancel,
                         lambda position: progress(position, size))


def step_through(
    source: Source, name: str, target: int, position: int, size: int, cancel: Cancel,
    told: Callable[[int], None],
) -> None:
    """Copy a file from ``position`` to its end, asking ``cancel`` before each step and telling
    after it how far it got."""
    while position < size:
        cancel()
        reached = source.step(name, target, position)
        if reached <= position:
            raise vanished(f"the rest of {source.where}/{name} after {position} bytes")
        position = reached
        told(position)


def _copy_file(copy: _Copy, name: str, size: int) -> None:
    """Bring ``<name>.part`` to its full size, from where the last attempt left it."""
    part = os.path.join(copy.directory, name + PART)
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    position = min(copy.offsets.get(name, 0), os.fstat(fd).st_size, size)
    saved = [position, time.monotonic()]

    def save() -> None:
        concurrency.native(os.fsync, fd)
        copy.offsets[name] = position
        copy.save()
        saved[:] = [position, time.monotonic()]

    def reached(now: int) -> None:
        nonlocal position
        position = now
        copy.progress(copy.done + position, copy.total)
        if position - saved[0] >= SAVE_BYTES or time.monotonic() - saved[1] >= SAVE_SECONDS:
            save()

    try:
        os.ftruncate(fd, position)  # what came after is not known to be right, nor to be empty
        os.ftruncate(fd, size)
        if position == size:  # a cut while the header was rewritten may have left half of it
            step_through(copy.source, name, fd, 0, min(size, HEADER), copy.cancel, _nothing)
        step_through(copy.source, name, fd, position, size, copy.cancel, reached)
        save()
    finally:
        if position > saved[0]:  # cut off: the next attempt goes on here
            with suppress(OSError):
                save()
        os.close(fd)


def _nothing(position: int) -> None:
    """Tells nobody."""


def _tidy(directory: str, keep_state: bool = False) -> list[str]:
    """Remove what a copy needs only while it goes on; returns the half-copied files."""
    removed = files.remove_parts(directory)
    for name in os.listdir(directory):
        if name.endswith(PART) and files.remove(os.path.join(directory, name)):
            removed.append(os.path.join(directory, name))
    if not keep_state:
        files.remove(os.path.join(directory, STATE))
    files.fsync_dir(directory)
    return removed


@contextmanager
def _final_when_full() -> Iterator[None]:
    """A full disk ends a copy: it is the place that is wrong, not the moment."""
    try:
        yield
    except Retryable as error:
        if error.code != "disk_full":
            raise
        raise Failed(
            error.what,
            now="The disks are whole at their source.",
            next="Free space on this host, or choose another one.",
            code="disk_full",
        ) from error


def _in_the_way(uuid: str, directory: str) -> NeedsOperator:
    return NeedsOperator(
        f"Guest {uuid} has disks in {directory} that are no copy of those to be copied.",
        now="They were not touched, and nothing was copied.",
        next="Find out which ones the guest needs; keep the others elsewhere, for example: "
        f"mv {directory} {directory}.kept",
        code="disk_in_the_way",
    )


def _unacceptable(reason: str) -> Failed:
    return Failed(
        f"The disks that were to be copied do not fit together: {reason}.",
        now="They are as they were; none is used here.",
        next="Bring the guest back to the host that it came from, and look at its disks there.",
        code="disk_unacceptable",
    )
