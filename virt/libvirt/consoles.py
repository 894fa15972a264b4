"""Consoles of domains: where screens are, and the serial console as a pair of sockets.

A serial console is a stream of libvirt's. Its calls block in C, so two native threads carry it to
and from one end of a pair of sockets; whoever has the other end may be a green thread.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

import libvirt

from compute import concurrency
from compute.errors import Refused, Unknown
from virt.libvirt.connection import Connection
from virt.libvirt.domains import Domains
from virt.libvirt.errors import translate
from virt.xml.chardev import Serial
from virt.xml.domain import Domain

PIECE = 4096
OPEN_SECONDS = 10.0


class Consoles:
    """The consoles of the domains of one libvirtd.

    :param connect: opens a connection for one console alone.
    """

    def __init__(self, connection: Connection, domains: Domains, connect: Callable[[], Any]):
        self._connection, self._domains, self._connect = connection, domains, connect

    def port(self, uuid: str, kind: str) -> int | None:
        """See :meth:`virt.driver.Driver.console_port`."""
        devices = self._definition(uuid).devices
        if kind == "serial":
            return next((each.service for each in devices.serials if each.type == "tcp"), None)
        ports = [each.port for each in devices.graphics
                 if each.type == kind and each.port and each.port > 0]  # fmt: skip
        return ports[0] if ports else None

    def _definition(self, uuid: str) -> Domain:
        domain = self._domains.required(uuid)
        return Domain.parse(self._connection.call("read_definition", domain.XMLDesc, 0))

    def open(self, uuid: str, force: bool) -> socket.socket:
        """See :meth:`virt.driver.Driver.open_console`."""
        first = next(iter(self._definition(uuid).devices.serials), None)
        if first is not None and first.type == "tcp":
            return self._tcp(uuid, first)
        near, far = socket.socketpair()
        carrier = _Carrier(uuid, os.dup(far.fileno()), self._connect, force)
        far.close()
        os.set_blocking(carrier.fd, True)
        carrier.start()
        if not concurrency.native(carrier.opened.wait, OPEN_SECONDS):
            near.close()
            raise Unknown(f"The console of guest {uuid} was not opened within {OPEN_SECONDS:g} s.",
                          now="Nothing is shown.", next="Ask again.", code="libvirt_timeout")
        if carrier.error is not None:
            near.close()
            raise self._refusal(uuid, carrier.error)
        return near

    @staticmethod
    def _tcp(uuid: str, serial: Serial) -> socket.socket:
        """A console with a port; QEMU serves one at a time, and lets others wait unseen."""
        try:
            return socket.create_connection((serial.host, serial.service), OPEN_SECONDS)
        except OSError as error:
            raise Refused(f"The console of guest {uuid} does not answer at {serial.host} port "
                          f"{serial.service}: {error}.", now="Nothing is shown.",
                          next="Start the guest if it is off, and ask again.",
                          code="invalid_state") from error

    @staticmethod
    def _refusal(uuid: str, error: BaseException) -> BaseException:
        if not isinstance(error, libvirt.libvirtError):
            return error
        if "console session" in (error.get_error_message() or ""):
            return Refused(f"Somebody else is at the console of guest {uuid}.",
                           now="He stays there.", next="End his session with --force.",
                           code="console_busy")
        return translate(error, "open the guest's console")


class _Carrier:
    """Carries one stream to and from a file descriptor, which it owns. Its threads are native and
    must not log."""

    def __init__(self, uuid: str, fd: int, connect: Callable[[], Any], force: bool):
        self.uuid, self.fd, self.connect, self.force = uuid, fd, connect, force
        self.error: BaseException | None = None
        self._native = concurrency.native_module("threading")
        self._os = concurrency.native_module("os")
        self.opened = self._native.Event()
        self._stream: Any = None

    def start(self) -> None:
        """Open the stream, and carry what the guest writes."""
        self._thread(self._out)

    def _thread(self, target: Callable[[], None]) -> None:
        self._native.Thread(target=target, daemon=True, name="libvirt-console").start()

    def _open(self) -> None:
        flags = libvirt.VIR_DOMAIN_CONSOLE_FORCE if self.force else 0
        self._handle = self.connect()
        self._stream = self._handle.newStream()
        self._handle.lookupByUUIDString(self.uuid).openConsole(None, self._stream, flags)

    def _out(self) -> None:
        try:
            self._open()
        except BaseException as error:  # noqa: BLE001 - told to whoever asked
            self.error = error
            self.opened.set()
            os.close(self.fd)
            return
        self.opened.set()
        typist = os.dup(self.fd)
        self._thread(lambda: self._in(typist))
        try:
            while data := self._stream.recv(PIECE):
                self._os.write(self.fd, data)
        except (libvirt.libvirtError, OSError):
            pass  # the guest, libvirtd or the reader is gone, which ends it
        finally:
            _hang_up(self.fd)

    def _in(self, fd: int) -> None:
        try:
            while data := os.read(fd, PIECE):
                while data:
                    data = data[self._stream.send(data):]
        except (libvirt.libvirtError, OSError):
            pass
        finally:
            _hang_up(fd)
            with contextlib.suppress(libvirt.libvirtError):
                self._stream.abort()


def _hang_up(fd: int) -> None:
    """Shut a socket down for both its ends, and close this descriptor of it."""
    native = concurrency.native_module("socket")
    end = native.socket(fileno=fd)
    with contextlib.suppress(OSError):  # the other end did
        end.shutdown(native.SHUT_RDWR)
    end.close()
