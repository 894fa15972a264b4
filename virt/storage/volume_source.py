"""A directory of another host, read through its libvirt: no ssh, no port but libvirt's own.

The directory becomes a transient storage pool of that libvirtd for as long as it is read, and its
files are storage volumes, which libvirt sends as sparse streams from any offset. Every call goes to
a native thread with a deadline, on a connection of this copy's own.
"""

from __future__ import annotations

import errno
import os
import time
import uuid as uuids
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from xml.sax.saxutils import escape

import libvirt
from lxml import etree

from compute import concurrency
from compute.errors import MagnetarError, Retryable, Unknown
from virt.libvirt.call import Calls
from virt.libvirt.connection import start_event_loop
from virt.storage.source import SMALL, Opener, Source, vanished

OPEN_TIMEOUT = 10.0
CHUNK = 262120  # bytes: what libvirt puts into one message
BATCH = 8 * 1024 * 1024  # bytes that one call brings at most
BATCH_SECONDS = 0.5
TRIES = 20  # to find or make a pool that others make and remove at the same time
RACE_SECONDS = 0.05
PREFIX = "magnetar-"
NAMES = uuids.UUID("6f0a5bb5-6f4e-4f8e-93c5-3c0b1c7a9d61")  # pools are named by their paths
_BUSY = (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_INTERNAL_ERROR)
_TAKEN = (libvirt.VIR_ERR_OPERATION_FAILED, *_BUSY)
_GONE = (libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL)


def opener(keepalive: tuple[int, int] = (5, 3), timeout: float = 60.0) -> Opener:
    """What opens directories of other hosts.

    :param keepalive: seconds between two signs of life, and how many may be missed.
    :param timeout: seconds that one call may take; libvirt sends 8 MiB at most in one.
    """

    def open_source(uri: str, uuid: str, name: str, instances_path: str) -> Source:
        link = _Link(uri, keepalive, timeout)
        try:
            parent = link.call("find_disks", _instances_path, uuid, instances_path)
            return VolumeSource(link, os.path.join(parent, name), os.path.join(parent, "_base"))
        except MagnetarError:
            link.close([])
            raise

    return open_source


def drop_pool(handle: libvirt.virConnect, path: str) -> None:
    """Remove a reader's pool on a directory, and nobody else's. Quiet if there is none. A reader
    that still needs it makes it anew. Raises libvirtError."""
    try:
        pool = handle.storagePoolLookupByTargetPath(path)
        if pool.name().startswith(PREFIX):
            pool.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (*_GONE, *_BUSY):
            raise


class _Link:
    """A connection of its own, and the thread that talks over it."""

    def __init__(self, uri: str, keepalive: tuple[int, int], timeout: float):
        start_event_loop()
        self.uri, self._calls = uri, Calls(1, timeout)
        self._handle = self._run("connect", _connect, uri, keepalive, timeout=OPEN_TIMEOUT)

    def call(self, name: str, func: Callable[..., Any], *args: Any) -> Any:
        """``func(connection, *args)`` on the native thread.

        :raises Retryable: code ``source_unreachable``, when there is no answer in time.
        """
        return self._run(name, func, self._handle, *args)

    def close(self, paths: list[str]) -> None:
        """Remove the pools on these directories, and hang up."""
        for path in paths:
            with suppress(MagnetarError):  # drop_pool() at the other end does it, or a later copy
                self.call("drop_pool", drop_pool, path)
        with suppress(MagnetarError):
            self._run("disconnect", self._handle.close, timeout=OPEN_TIMEOUT)
        self._calls.close()

    def _run(self, name: str, func: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return self._calls.run(name, func, *args, **options)
        except Unknown as error:
            raise Retryable(
                f"The host at {self.uri} does not answer: {error.what}",
                now="What was copied so far is kept, and nothing was changed there.",
                next="The copy goes on where it was once libvirtd answers there.",
                code="source_unreachable",
            ) from error


class VolumeSource:
    """See :class:`virt.storage.source.Source`."""

    def __init__(self, link: _Link, path: str, images: str):
        self.where = f"{link.uri} {path}"
        self._link, self._path = link, path
        self._images_path = images
        self._images: VolumeSource | None = None
        self._stream: Any = None
        self._at = ("", 0)  # what the stream brings next: file and position

    def size(self, name: str) -> tuple[int, int] | None:
        return self._link.call("look_at_disk", _size, self._path, name)

    def read(self, name: str) -> bytes | None:
        return self._link.call("read_record", _read, self._path, name)

    def step(self, name: str, target: int, position: int) -> int:
        if self._stream is None or self._at != (name, position):
            self._abort()
            self._stream = self._link.call("open_disk", _open, self._path, name, position)
            if self._stream is None:
                raise vanished(f"{self.where}/{name}")
        pieces, ended = self._link.call("copy_disk", _receive, self._stream)
        if ended:
            self._stream = None
        position = concurrency.native(_write, target, position, pieces)
        self._at = (name, position)
        return position

    def images(self) -> Source:
        if self._images is None:
            self._images = VolumeSource(self._link, self._images_path, self._images_path)
        return self._images

    def close(self) -> None:
        for reader in (self, self._images):
            if reader is not None:
                reader._abort()
        # Both, whichever was read this time: an attempt that was cut off may have left the other.
        self._link.close([self._path, self._images_path])

    def _abort(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(MagnetarError):  # a dead connection has no streams
                self._link.call("close_disk", _finish, stream)


# What follows runs on the native thread: no logging, no lock.
def _connect(uri: str, keepalive: tuple[int, int]) -> libvirt.virConnect:
    handle = libvirt.open(uri)
    handle.setKeepAlive(*keepalive)
    return handle


def _instances_path(handle: libvirt.virConnect, uuid: str, otherwise: str) -> str:
    """Where that host keeps its guests' directories: the guest's definition tells."""
    try:
        text = handle.lookupByUUIDString(uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return otherwise
    for path in etree.fromstring(text).xpath("./devices/disk/source/@file"):
        parent, name = os.path.split(os.path.dirname(str(path)))
        if name == uuid:
            return parent
    return otherwise


def _pool(handle: libvirt.virConnect, path: str) -> libvirt.virStoragePool:
    """The pool on a directory; another reader's will do. Raises Failed(code='disk_missing')."""
    name = f"{PREFIX}{os.path.basename(path)}-{uuids.uuid5(NAMES, path).hex[:8]}"
    xml = (f"<pool type='dir'><name>{escape(name)}</name><uuid>{uuids.uuid5(NAMES, path)}</uuid>"
           f"<target><path>{escape(path)}</path></target></pool>")  # fmt: skip
    for left in reversed(range(TRIES)):
        try:
            pool = handle.storagePoolLookupByTargetPath(path)
            _refresh(pool)
            return pool
        except libvirt.libvirtError as error:
            if _is_absent(error):
                raise vanished(path) from error
            if error.get_error_code() not in _GONE:
                raise
        try:
            return handle.storagePoolCreateXML(xml, 0)
        except libvirt.libvirtError as error:
            if _is_absent(error):
                raise vanished(path) from error
            if error.get_error_code() not in _TAKEN or not left:
                raise
        # Another reader makes or removes it in this moment.
        concurrency.native_module("time").sleep(RACE_SECONDS)
    raise vanished(path)


def _refresh(pool: libvirt.virStoragePool) -> None:
    try:
        pool.refresh(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _BUSY:  # while something is written to it
            raise


def _is_absent(error: libvirt.libvirtError) -> bool:
    return (error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR
            and error.get_int1() in (errno.ENOENT, errno.ENOTDIR))


def _with_volume(
    handle: libvirt.virConnect, path: str, name: str, use: Callable[[Any], Any]
) -> Any:
    """``use(volume)``; None if there is no such file. A pool that vanishes is made again."""
    for left in reversed(range(TRIES)):
        pool = _pool(handle, path)
        try:
            return use(pool.storageVolLookupByName(name))
        except libvirt.libvirtError as error:
            code = error.get_error_code()
            if code == libvirt.VIR_ERR_NO_STORAGE_VOL or _is_absent(error):
                return None
            if code not in (libvirt.VIR_ERR_NO_STORAGE_POOL, *_BUSY) or not left:
                raise
    return None


def _size(handle: libvirt.virConnect, path: str, name: str) -> tuple[int, int] | None:
    return _with_volume(handle, path, name, lambda volume: (
        volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2], volume.info()[2]))


def _read(handle: libvirt.virConnect, path: str, name: str) -> bytes | None:
    def use(volume: Any) -> bytes:
        stream = handle.newStream(0)
        volume.download(stream, 0, SMALL, 0)
        data = b""
        while piece := stream.recv(CHUNK):
            data += piece
        stream.finish()
        return data

    return _with_volume(handle, path, name, use)


def _open(handle: libvirt.virConnect, path: str, name: str, position: int) -> Any:
    def use(volume: Any) -> Any:
        stream = handle.newStream(0)
        volume.download(stream, position, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        return stream

    return _with_volume(handle, path, name, use)


def _receive(handle: libvirt.virConnect, stream: Any) -> tuple[list[bytes | int], bool]:
    """The next pieces: data, or the length of a hole; and whether that was the end."""
    pieces: list[bytes | int] = []
    size, until = 0, time.monotonic() + BATCH_SECONDS
    while size < BATCH and time.monotonic() < until:
        got = stream.recvFlags(CHUNK, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
        if got == -3:
            pieces.append(stream.recvHole())
        elif not got:
            stream.finish()
            return pieces, True
        else:
            pieces.append(got)
            size += len(got)
    return pieces, False


def _finish(handle: libvirt.virConnect, stream: Any) -> None:
    stream.abort()


def _write(target: int, position: int, pieces: list[bytes | int]) -> int:
    for piece in pieces:
        if isinstance(piece, int):
            position += piece
            continue
        while piece:
            count = os.pwrite(target, piece, position)
            position, piece = position + count, piece[count:]
    return position
