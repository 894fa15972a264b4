"""Certificates for libvirt and QEMU between hosts; see tools/certificates.

One authority of one's own, and for each host one certificate that it shows as server and as client.
All keys are RSA: QEMU's and libvirt's ciphers want "key encipherment", which ECDSA cannot carry.
"""

import argparse
import ipaddress
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

DAYS = 3650
RENEW_SECONDS = 30 * 86400
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
# Where each file of a host goes below its /etc/pki: libvirt's fixed names, then QEMU's.
LAYOUT = {
    "cacert.pem": ("CA/cacert.pem", "qemu/ca-cert.pem"),
    "cert.pem": (
        "libvirt/servercert.pem",
        "libvirt/clientcert.pem",
        "qemu/server-cert.pem",
        "qemu/client-cert.pem",
    ),
    "key.pem": (
        "libvirt/private/serverkey.pem",
        "libvirt/private/clientkey.pem",
        "qemu/server-key.pem",
        "qemu/client-key.pem",
    ),
}
EXTENSIONS = """basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature,keyEncipherment
extendedKeyUsage = serverAuth,clientAuth
subjectAltName = {names}
"""
NEXT = """
Copy each host's directory to its /etc/pki, as root and over a channel that you trust:
  tar -C {directory}/HOST -cf - . | ssh root@HOST tar -C /etc/pki -xf -
On the host, let QEMU's user read its key (Debian: group libvirt-qemu), and tell the daemons:
  chgrp -R libvirt-qemu /etc/pki/qemu && chmod -R u=rwX,g=rX,o= /etc/pki/qemu
  /etc/libvirt/libvirtd.conf   listen_tls = 1, auth_tls = "none" (the certificate is the proof)
  /etc/libvirt/qemu.conf       default_tls_x509_cert_dir = "/etc/pki/qemu"
                               default_tls_x509_verify = 1
  systemctl enable --now libvirtd-tls.socket; systemctl restart libvirtd
{directory}/ca/cakey.pem signs whoever shall rule your hosts: keep it offline.
"""


class CertificateError(Exception):
    """Certificates were not made; the text says why and what to do."""


def make(directory: Path, hosts: Mapping[str, Sequence[str]]) -> list[str]:
    """Make or complete an authority in ``directory`` and a certificate for each host.

    :param hosts: addresses of each host by its name; both are put into its certificate.
    :returns: the hosts that got a new certificate; the others keep theirs, which was still right.
    :raises CertificateError: a name or address is none, or openssl failed.
    """
    _check(hosts)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = directory / "ca"
    if not (authority / "cacert.pem").exists():
        _make_authority(authority)
    return [
        name
        for name, addresses in hosts.items()
        if _make_host(authority, directory / name, name, addresses)
    ]


def _check(hosts: Mapping[str, Sequence[str]]) -> None:
    for name, addresses in hosts.items():
        if not NAME.fullmatch(name) or name == "ca":
            raise CertificateError(
                f"{name!r} cannot be a host's name. Nothing was made. "
                "Give HOST=ADDRESS,… with the name that other hosts use for it."
            )
        for address in addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError as error:
                raise CertificateError(
                    f"{name}: {address!r} is not an IP address. Nothing was made. "
                    "Give all of the host's addresses that others migrate to."
                ) from error


def _make_authority(authority: Path) -> None:
    """The certificate is written last: while it is missing, the authority is not there."""
    authority.mkdir(mode=0o700, exist_ok=True)
    _key(authority / "cakey.pem")
    partial = authority / "cacert.partial"
    _openssl(
        "req", "-x509", "-new", "-sha256", "-days", str(DAYS), "-key", authority / "cakey.pem",
        "-subj", "/CN=Magnetar host authority", "-out", partial,
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    partial.rename(authority / "cacert.pem")


def _make_host(authority: Path, directory: Path, name: str, addresses: Sequence[str]) -> bool:
    """True when a certificate was made, False when the one that is there serves."""
    names = ",".join([f"DNS:{name}", *(f"IP:{address}" for address in addresses)])
    if _serves(authority, directory, names):
        return False
    work = directory.with_name(f".{name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    _key(work / "key.pem")
    (work / "extensions").write_text(EXTENSIONS.format(names=names))
    _openssl("req", "-new", "-key", work / "key.pem", "-subj", f"/CN={name}",
             "-out", work / "request.pem")  # fmt: skip
    _openssl(
        "x509", "-req", "-sha256", "-days", str(DAYS), "-in", work / "request.pem",
        "-CA", authority / "cacert.pem", "-CAkey", authority / "cakey.pem",
        "-set_serial", f"0x{os.urandom(16).hex()}", "-extfile", work / "extensions",
        "-out", work / "cert.pem",
    )  # fmt: skip
    shutil.copy(authority / "cacert.pem", work / "cacert.pem")
    for source, targets in LAYOUT.items():
        for target in targets:
            path = directory / target
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(work / source, path)
            path.chmod(0o600 if source == "key.pem" else 0o644)
    (directory / "libvirt/private").chmod(0o700)
    # Last, so that an interrupted run is done again.
    (directory / "names").write_text(names)
    shutil.rmtree(work)
    return True


def _serves(authority: Path, directory: Path, names: str) -> bool:
    """Whether the host's certificate is complete, for these names, by this authority, and fresh."""
    noted = directory / "names"
    if not noted.exists() or noted.read_text() != names:
        return False
    if not all((directory / path).exists() for paths in LAYOUT.values() for path in paths):
        return False
    ours = (authority / "cacert.pem").read_bytes()
    if (directory / "CA/cacert.pem").read_bytes() != ours:
        return False
    fresh = subprocess.run(
        ["openssl", "x509", "-noout", "-checkend", str(RENEW_SECONDS)]
        + ["-in", str(directory / "libvirt/servercert.pem")],
        capture_output=True,
        check=False,
    )
    return fresh.returncode == 0


def _key(path: Path) -> None:
    if path.exists():
        return
    partial = path.with_suffix(".partial")
    _openssl("genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048",
             "-out", partial)  # fmt: skip
    partial.chmod(0o600)
    partial.rename(path)


def _openssl(*words: object) -> None:
    command = ["openssl", *map(str, words)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise CertificateError(
            "openssl is not installed, no certificate was made. Install the package openssl."
        ) from error
    if done.returncode:
        raise CertificateError(
            f"'{' '.join(command[:2])}' failed: {done.stderr.strip()}. Certificates that were "
            "complete stay. Correct the cause and run this again."
        )


def _parse(words: Sequence[str]) -> dict[str, list[str]]:
    hosts = {}
    for word in words:
        name, separator, addresses = word.partition("=")
        if not separator or not addresses:
            raise CertificateError(
                f"{word!r} names no address. Nothing was made. Give HOST=ADDRESS[,ADDRESS…]."
            )
        hosts[name] = addresses.split(",")
    return hosts


def main() -> int:
    """Make what is missing; 0 when every host has a certificate that serves."""
    parser = argparse.ArgumentParser(
        prog="tools/certificates",
        description="Certificates for encrypted migration between hosts.",
    )
    parser.add_argument("directory", type=Path, help="where authority and hosts' files go")
    parser.add_argument("hosts", nargs="+", metavar="HOST=ADDRESS[,ADDRESS…]")
    arguments = parser.parse_args()
    try:
        hosts = _parse(arguments.hosts)
        made = make(arguments.directory, hosts)
    except (CertificateError, OSError) as error:
        print(f"certificates: {error}", file=sys.stderr)
        return 1
    for name in hosts:
        print(f"  {name}: {'made' if name in made else 'is there'}, {arguments.directory / name}")
    print(NEXT.format(directory=arguments.directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
