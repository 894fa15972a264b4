"""Two private libvirtds that reach each other: enough to move a guest between them.

Each is a host of its own: network namespace, host UUID, certificates and directories of libvirt.
The rest of the file system is shared, so that a test decides by the paths which disks both see.
"""

import contextlib
import ctypes
import datetime
import ipaddress
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.integration.libvirtd import PATH, PrivateLibvirtd
from tools.toolbox.lab.place import mount_points

NETWORK = "10.78.0."
CLONE_NEWNET = 0x40000000
LISTEN = """listen_tcp = 1
listen_tls = 1
auth_tcp = "none"
auth_tls = "none"
"""
QEMU = """migration_host = "{address}"
migration_address = "0.0.0.0"
default_tls_x509_cert_dir = "/etc/pki/qemu"
default_tls_x509_verify = 1
"""


class MoveHost(PrivateLibvirtd):
    """One of the two hosts. The second is given the first and connects itself to it."""

    ARGUMENTS = {"libvirtd": ["--listen"]}

    def __init__(self, number: int, other: "MoveHost | None" = None) -> None:
        super().__init__()
        self.address = NETWORK + str(number)
        self._other = other

    @property
    def holder(self) -> int:
        """A process in the host's namespaces, to enter them by."""
        return self._holder.pid

    def enter(self, *command: str) -> str:
        """Run a command in the host's network and mount namespaces; what it wrote."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.holder), "--mount", "--net", *command],
            env={"PATH": PATH}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Let this thread be in the host's network, as the host's own agent would be."""
        with open("/proc/self/ns/net") as own, open(f"/proc/{self.holder}/ns/net") as its:
            _enter_network(its.fileno())
            try:
                yield
            finally:
                _enter_network(own.fileno())

    def cut(self) -> None:
        """Take the link to the other host down."""
        self.enter("ip", "link", "set", "move0", "down")

    def mend(self) -> None:
        """Bring the link up again."""
        self.enter("ip", "link", "set", "move0", "up")

    def _write_files(self) -> None:
        super()._write_files()
        for name, text in (("libvirtd", LISTEN), ("qemu", QEMU)):
            with (self.base / f"etc/{name}.conf").open("a") as file:
                file.write(text.format(address=self.address))
        authority = self._other.authority if self._other else Authority()
        self.authority = authority
        authority.issue(self.base / "pki", self.address)

    def _hold_namespaces(self) -> subprocess.Popen:
        self._holder = holder = super()._hold_namespaces()
        with mount_points():
            self.enter("mount", "--bind", str(self.base / "pki"), "/etc/pki")
        if self._other is not None:
            self.enter("ip", "link", "add", "move0", "type", "veth",
                       "peer", "name", "move0", "netns", str(self._other.holder))  # fmt: skip
            for host in (self._other, self):
                host.enter("ip", "address", "add", host.address + "/24", "dev", "move0")
                host.mend()
        return holder


class Authority:
    """A certificate authority that lives as long as the test."""

    def __init__(self) -> None:
        self._key = _key()
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        self._certificate = self._sign(self._name, self._key, 1, authority=True)

    def issue(self, directory: Path, address: str, days: float = 60) -> None:
        """Write all certificates that libvirtd and QEMU of one host want, below ``directory``."""
        key = _key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, address)])
        certificate = _pem(self._sign(name, key, days, address=address))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )  # fmt: skip
        shutil.rmtree(directory, ignore_errors=True)
        for path, content in (
            ("CA/cacert.pem", _pem(self._certificate)),
            ("qemu/ca-cert.pem", _pem(self._certificate)),
            ("libvirt/servercert.pem", certificate), ("libvirt/clientcert.pem", certificate),
            ("libvirt/private/serverkey.pem", private), ("libvirt/private/clientkey.pem", private),
            ("qemu/server-cert.pem", certificate), ("qemu/client-cert.pem", certificate),
            ("qemu/server-key.pem", private), ("qemu/client-key.pem", private),
            # For a client that is told where to look (pkipath).
            ("client/cacert.pem", _pem(self._certificate)),
            ("client/clientcert.pem", certificate), ("client/clientkey.pem", private),
        ):  # fmt: skip
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(content)

    def _sign(self, name, key, days, *, authority=False, address=None):
        now = datetime.datetime.now(datetime.UTC)
        usage = {name: name in ("key_cert_sign", "crl_sign") for name in (
            "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
            "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")}
        if not authority:
            usage = {name: name in ("digital_signature", "key_encipherment") for name in usage}
        builder = (
            x509.CertificateBuilder().subject_name(name).issuer_name(self._name)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
        )  # fmt: skip
        if address:
            names = [x509.IPAddress(ipaddress.ip_address(address)), x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _enter_network(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns failed")


def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)  # libvirt wants RSA


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
