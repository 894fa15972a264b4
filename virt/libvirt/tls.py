"""The certificates that migrations with TLS need: libvirt's for control, QEMU's for data."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from compute.model.move import Check

SOON = timedelta(days=14)
TOOL = "tools/certificates"
MAKE = f"Make one with {TOOL}, or with your own authority, and copy it there."
SETTING = re.compile(r'^\s*(\w+_tls_x509_cert_dir)\s*=\s*"([^"]+)"', re.MULTILINE)


class Certificates:
    """Finds and judges the certificates of this host.

    :param pki: where libvirt keeps its own.
    :param qemu_conf: libvirt's file that may name another directory for QEMU's.
    """

    def __init__(self, pki: str = "/etc/pki", qemu_conf: str = "/etc/libvirt/qemu.conf"):
        self._pki, self._qemu_conf = pki, qemu_conf

    def complete(self) -> bool:
        """Whether QEMU's certificates are here, so that memory and disks can be encrypted."""
        names = ("ca-cert.pem", "server-cert.pem", "client-cert.pem")
        return all(os.path.exists(os.path.join(self._qemu_dir(), name)) for name in names)

    def check_server(self, host: str, scheme: str) -> list[Check]:
        """Whether guests can be received under a name or address with TLS."""
        found = [self._judge("QEMU's server certificate", *self._of_qemu("server"), host)]
        if scheme == "tls":
            found.append(self._judge("libvirt's server certificate", *self._of_libvirt("server"),
                                     host))  # fmt: skip
        return found

    def check_client(self, scheme: str) -> list[Check]:
        """Whether guests can be sent with TLS."""
        found = [self._judge("QEMU's client certificate", *self._of_qemu("client"), None)]
        if scheme == "tls":
            found.append(self._judge("libvirt's client certificate", *self._of_libvirt("client"),
                                     None))  # fmt: skip
        return found

    def _of_qemu(self, role: str) -> tuple[str, str]:
        here = self._qemu_dir()
        return os.path.join(here, f"{role}-cert.pem"), os.path.join(here, "ca-cert.pem")

    def _of_libvirt(self, role: str) -> tuple[str, str]:
        return (os.path.join(self._pki, "libvirt", f"{role}cert.pem"),
                os.path.join(self._pki, "CA", "cacert.pem"))  # fmt: skip

    def _qemu_dir(self) -> str:
        """Where QEMU finds them: as libvirt's qemu.conf says, else as libvirt chooses."""
        with contextlib.suppress(OSError), open(self._qemu_conf, errors="replace") as file:
            named = dict(SETTING.findall(file.read()))
            for key in ("migrate_tls_x509_cert_dir", "default_tls_x509_cert_dir"):
                if key in named:
                    return self._moved(named[key])
        own = os.path.join(self._pki, "libvirt-migrate")
        return own if os.path.isdir(own) else os.path.join(self._pki, "qemu")

    def _moved(self, path: str) -> str:
        """``path`` below the directory that stands for /etc/pki."""
        inside = os.path.relpath(path, "/etc/pki")
        return path if inside.startswith("..") else os.path.join(self._pki, inside)

    def _judge(self, name: str, path: str, authority: str, host: str | None) -> Check:
        try:
            certificate, signer = _load(path), _load(authority)
        except FileNotFoundError as error:
            return Check(name, False, f"{error.filename} is missing", MAKE)
        except PermissionError as error:
            return Check(name, None, f"{error.filename} cannot be read by the agent",
                         "Let the agent's user read certificates; keys stay root's.")  # fmt: skip
        except (OSError, ValueError) as error:
            return Check(name, False, f"{path} cannot be read: {error}", MAKE)
        return _judged(name, path, certificate, signer, host)


def _load(path: str) -> Any:
    from cryptography import x509  # takes a while, and most starts need none

    with open(path, "rb") as file:
        return x509.load_pem_x509_certificate(file.read())


def _judged(name: str, path: str, certificate: Any, signer: Any, host: str | None) -> Check:
    now = datetime.now(UTC)
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > until:
        return Check(name, False, f"{path} expired on {until:%Y-%m-%d %H:%M} UTC", MAKE)
    if now < since:
        return Check(name, False, f"{path} is valid only from {since:%Y-%m-%d %H:%M} UTC",
                     "Set this host's clock, or make a new certificate.")  # fmt: skip
    if not _signed_by(certificate, signer):
        return Check(name, False, f"{path} is not signed by this host's authority "
                     f"({signer.subject.rfc4514_string()})",
                     "Use one authority for all hosts.")  # fmt: skip
    names = names_of(certificate)
    if host is not None and not any(matches(host, each) for each in names):
        return Check(name, False, f"{path} is for {', '.join(names) or 'no name'}, and hosts "
                     f"reach this one as {host}", MAKE)  # fmt: skip
    found = f"valid until {until:%Y-%m-%d}"
    if until - now < SOON:
        return Check(name, None, found, "Make a new one in time.")
    return Check(name, True, found)


def _signed_by(certificate: Any, signer: Any) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def names_of(certificate: Any) -> list[str]:
    """The names and addresses that a certificate is for; its common name when it lists none."""
    from cryptography import x509

    try:
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [*listed.get_values_for_type(x509.DNSName),
                *map(str, listed.get_values_for_type(x509.IPAddress))]  # fmt: skip
    except x509.ExtensionNotFound:
        return [str(a.value) for a in
                certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]  # fmt: skip


def matches(host: str, name: str) -> bool:
    """Whether a certificate's name is for a host; ``*`` stands for one label."""
    host, name = host.strip("[]").lower().rstrip("."), name.lower().rstrip(".")
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(name)
    except ValueError:
        if ":" in host or host.replace(".", "").isdigit():
            return False  # an address, which no name with * is for
    if name.startswith("*."):
        return "." in host and host.partition(".")[2] == name[2:]
    return host == name
