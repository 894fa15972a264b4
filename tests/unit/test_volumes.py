"""Volumes that QEMU reaches by itself: what is read of a connection, and what becomes of it."""

from __future__ import annotations

import dataclasses
import os
import stat

import fixtures
import testtools

from compute import errors
from compute.model.guest import HostFacts
from compute.model.volume import Volume, VolumeSource, without_secrets
from tests import luks
from tests.golden.test_domains import options
from tests.unit.storage_support import qemu_img
from virt.libvirt import volumes as disks
from virt.volumes import keys
from virt.volumes.connection import Connection, addresses, portal
from virt.volumes.volumes import INITIATOR_FILE, Volumes

VOLUME, GUEST = "c0ffee00-0000-4000-8000-000000000001", "6f1e2d3c-0000-4000-8000-000000000001"
FACTS = HostFacts("node-1", "QEMU", 1, 1, 1, 1, 1, host_ip="192.0.2.9")
ISCSI = {"target_portal": "192.0.2.1:3260", "target_iqn": "iqn.2026-11.org.example:one",
         "target_lun": 1}  # fmt: skip
CHAP = {**ISCSI, "auth_method": "CHAP", "auth_username": "user", "auth_password": "s3cret"}
RBD = {"name": "volumes/one", "hosts": ["192.0.2.1", "[2001:db8::1]"], "ports": ["6789", "6789"],
       "auth_enabled": True, "auth_username": "cinder"}  # fmt: skip


class FakeSecrets:
    """Secrets in a dict: uuid -> (usage, name, value)."""

    def __init__(self):
        self.kept = {}

    def define(self, identity, usage, name, value):
        self.kept[identity] = (usage, name, value)

    def exists(self, identity):
        return identity in self.kept

    def undefine(self, identity):
        self.kept.pop(identity, None)


def info(kind, **data):
    """A connection_info."""
    return {"driver_volume_type": kind, "serial": VOLUME, "data": data}


class VolumesCase(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.base = self.useFixture(fixtures.TempDir()).path
        self.secrets = FakeSecrets()
        self.conf = options({})
        self.conf.set_override("state_path", self.base)
        self.conf.set_override("host", "a-host")
        self.volumes = Volumes(self.conf, self.secrets)

    def option(self, name, value):
        self.conf.set_override(name, value, group="libvirt")

    def connect(self, kind, **data):
        return self.volumes.connect(info(kind, **data), GUEST)

    def refused(self, code, kind, **data):
        error = self.assertRaises(errors.MagnetarError, self.connect, kind, **data)
        self.assertEqual(code, error.code)
        self.assertTrue(error.now and error.next)
        return error

    def file(self, name="volume", size=1 << 20):
        path = os.path.join(self.base, name)
        with open(path, "wb") as file:
            file.truncate(size)
        return path


class LocalTest(VolumesCase):
    def test_a_file(self):
        path = self.file()
        source = self.connect("local", device_path=path, format="qcow2")
        self.assertEqual(VolumeSource("file", path, "qcow2", serial=VOLUME), source)
        self.assertEqual(source, self.connect("local", device_path=path, format="qcow2"))
        self.volumes.disconnect(info("local", device_path=path), GUEST)
        self.assertTrue(os.path.exists(path))

    def test_what_the_connection_says_of_its_use(self):
        source = self.connect("local", device_path=self.file(), access_mode="ro", discard=False,
                              qos_specs={"read_iops_sec": "100", "write_bytes_sec_max": 5,
                                         "backend_only": "x"})  # fmt: skip
        self.assertTrue(source.readonly)
        self.assertFalse(source.discard)
        self.assertEqual({"read_iops_sec": 100, "write_bytes_sec_max": 5}, source.iotune)

    def test_a_device(self):
        real, path = os.stat, self.file()

        def device(name, **more):
            found = real(name, **more)
            return os.stat_result((stat.S_IFBLK | 0o600, *found[1:])) if name == path else found

        self.useFixture(fixtures.MonkeyPatch("os.stat", device))
        self.assertEqual("block", self.connect("local", device_path=path).kind)

    def test_what_cannot_be_used(self):
        self.refused("volume_missing", "local", device_path=self.base + "/none")
        for data in ({"device_path": "relative"}, {"device_path": self.base}, {},
                     {"device_path": self.file(), "format": "vmdk"},
                     {"device_path": self.file(), "qos_specs": {"total_iops_sec": "many"}},
                     {"device_path": self.file(),
                      "qos_specs": {"total_iops_sec": 5, "read_iops_sec": 5}}):  # fmt: skip
            self.refused("volume_unacceptable", "local", **data)
        for broken in ({}, {"driver_volume_type": "local", "data": {"device_path": "/x"}},
                       {"driver_volume_type": "local", "data": "x", "serial": VOLUME}):  # fmt: skip
            error = self.assertRaises(errors.Failed, self.volumes.connect, broken, GUEST)
            self.assertEqual("volume_unacceptable", error.code)

    def test_it_grows(self):
        path = self.file(size=1 << 20)
        os.truncate(path, 3 << 20)
        self.assertEqual(3 << 20, self.volumes.grow(info("local", device_path=path)))
        qcow2 = os.path.join(self.base, "q")
        qemu_img("create", "-q", "-f", "qcow2", qcow2, "7M")
        grown = self.volumes.grow(info("local", device_path=qcow2, format="qcow2"))
        self.assertEqual(7 << 20, grown)


class NetworkTest(VolumesCase):
    def test_nbd(self):
        source = self.connect("nbd", host="::1", export="a name")
        self.assertEqual(("network", "a name", "nbd", (("::1", 10809),)),
                         (source.kind, source.path, source.protocol, source.hosts))  # fmt: skip
        source = self.connect("nbd", hosts=["one", "two"], ports=[1, 2])
        self.assertEqual(("", (("one", 1),)), (source.path, source.hosts))
        self.refused("volume_unacceptable", "nbd")
        self.refused("volume_unacceptable", "nbd", host="one", port="x")

    def test_iscsi(self):
        source = self.connect("iscsi", **ISCSI)
        self.assertEqual(
            ("iqn.2026-11.org.example:one/1", "iscsi", (("192.0.2.1", 3260),), "", "", False),
            (source.path, source.protocol, source.hosts, source.auth_user, source.secret,
             source.discard))  # fmt: skip
        self.assertEqual(self.volumes.connector_properties(FACTS)["initiator"], source.initiator)
        for name in ISCSI:
            self.refused("volume_unacceptable", "iscsi",
                         **{key: value for key, value in ISCSI.items() if key != name})
        self.refused("volume_unacceptable", "iscsi", **{**CHAP, "auth_method": "KRB5"})
        self.assertEqual(0, self.volumes.grow(info("iscsi", **ISCSI)))

    def test_lun_zero_is_a_lun(self):
        self.assertTrue(self.connect("iscsi", **{**ISCSI, "target_lun": 0}).path.endswith("/0"))

    def test_chap_is_libvirts_secret(self):
        source = self.connect("iscsi", **CHAP)
        self.assertEqual({source.secret: ("iscsi", f"volume:{VOLUME}:{GUEST}", b"s3cret")},
                         self.secrets.kept)  # fmt: skip
        self.assertEqual("user", source.auth_user)
        known = without_secrets(info("iscsi", **CHAP))
        self.assertNotIn("s3cret", str(known))
        self.assertEqual(source, self.volumes.connect(known, GUEST))
        self.assertNotIn("s3cret", disks.device(Volume(VOLUME), source).to_xml())
        for _ in range(2):
            self.volumes.disconnect(known, GUEST)
        self.assertEqual({}, self.secrets.kept)
        error = self.assertRaises(errors.Failed, self.volumes.connect, known, GUEST)
        self.assertEqual("volume_secret_missing", error.code)

    def test_two_guests_of_one_volume_have_secrets_of_their_own(self):
        first = self.connect("iscsi", **CHAP)
        second = self.volumes.connect(info("iscsi", **CHAP), "another")
        self.assertNotEqual(first.secret, second.secret)
        self.volumes.disconnect(info("iscsi", **CHAP), GUEST)
        self.assertEqual([second.secret], list(self.secrets.kept))

    def test_the_initiators_name(self):
        self.assertEqual("iqn.2008-11.org.linux-kvm:a-host", self.volumes._initiator)
        path = os.path.join(self.base, "initiatorname")
        with open(path, "w") as file:
            file.write("## a comment\nInitiatorName=iqn.1993-08.org.debian:01:abc\n")
        self.useFixture(fixtures.MonkeyPatch("virt.volumes.volumes.INITIATOR_FILE", path))
        found = Volumes(self.conf, self.secrets).connector_properties(FACTS)
        self.assertEqual(("iqn.1993-08.org.debian:01:abc", "192.0.2.9", "node-1", False), (
            found["initiator"], found["ip"], found["host"], found["multipath"]))
        self.assertTrue(INITIATOR_FILE.startswith("/etc/iscsi"))

    def test_rbd(self):
        source = self.connect("rbd", **RBD, secret_uuid="5ec0e700-0000-4000-8000-000000000001")
        self.assertEqual(
            ("volumes/one", (("192.0.2.1", 6789), ("2001:db8::1", 6789)), "cinder",
             "5ec0e700-0000-4000-8000-000000000001"),
            (source.path, source.hosts, source.auth_user, source.secret))  # fmt: skip
        self.assertEqual("", self.connect("rbd", **{**RBD, "auth_enabled": False}).secret)
        self.refused("volume_unacceptable", "rbd", **{**RBD, "name": "no-pool"})
        self.refused("volume_unacceptable", "rbd", **{**RBD, "ports": [1]})
        self.refused("volume_unacceptable", "rbd", **{**RBD, "ports": ["a", "b"]})

    def test_rbd_by_the_keyring_that_comes_along(self):
        keyring = "[client.cinder]\n\tkey = QUJD\n\tcaps mon = ...\n"
        for given in (keyring, "QUJD"):
            source = self.connect("rbd", **RBD, keyring=given)
            self.assertEqual(("ceph", f"volume:{VOLUME}:{GUEST}", b"ABC"),
                             self.secrets.kept[source.secret])  # fmt: skip
        self.refused("volume_unacceptable", "rbd", **RBD, keyring="[client.cinder]")
        self.volumes.disconnect(info("rbd", **RBD), GUEST)
        self.refused("volume_secret_missing", "rbd", **RBD)

    def test_rbd_user_and_rbd_secret_uuid(self):
        self.option("rbd_user", "nova")
        self.option("rbd_secret_uuid", "0ff1ce00-0000-4000-8000-000000000001")
        source = self.connect("rbd", **RBD, secret_uuid="another")
        self.assertEqual(("nova", "0ff1ce00-0000-4000-8000-000000000001"),
                         (source.auth_user, source.secret))  # fmt: skip

    def test_addresses(self):
        for text, wanted in (("192.0.2.1:1", ("192.0.2.1", 1)), ("[::1]:2", ("::1", 2)),
                             ("::1", ("::1", 9)), ("[::1]", ("::1", 9)), ("host", ("host", 9))):
            self.assertEqual(wanted, portal(VOLUME, text, 9))
        connection = Connection.of(info("rbd", hosts=["a", "b"]))
        self.assertEqual((("a", 7), ("b", 7)), addresses(connection, 7))


class EncryptionTest(VolumesCase):
    def test_the_passphrase_is_only_libvirts(self):
        data = {"device_path": self.file(), "encrypted": True, "passphrase": "of the key manager"}
        source = self.connect("local", **data)
        self.assertEqual({source.luks_secret: ("volume", f"/volume:{VOLUME}:{GUEST}",
                                               b"of the key manager")}, self.secrets.kept)
        known = without_secrets(info("local", **data))
        self.assertNotIn("of the key manager", f"{known} {source}")
        self.assertEqual(source, self.volumes.connect(known, GUEST))
        self.volumes.disconnect(known, GUEST)
        self.assertEqual({}, self.secrets.kept)
        self.refused("volume_secret_missing", "local", device_path=self.file(), encrypted=True)

    def test_the_size_that_a_guest_gets_is_without_the_header(self):
        path = os.path.join(self.base, "luks")
        luks.make(path, "a passphrase", "8M")
        for encrypted, wanted in ((True, 8 << 20), (False, os.stat(path).st_size)):
            connection = info("local", device_path=path, encrypted=encrypted)
            self.assertEqual(os.stat(path).st_size, self.volumes.grow(connection))
            self.assertEqual(wanted, self.volumes.usable(connection))

    def test_another_key_manager(self):
        class Barbican:
            def passphrase(self, volume, data):
                return {VOLUME: "0a1b"}[volume] + data["encryption_key_id"]

        volumes = Volumes(self.conf, self.secrets, Barbican())
        source = volumes.connect(
            info("iscsi", **CHAP, encrypted=True, encryption_key_id="k"), GUEST)
        self.assertEqual(b"0a1bk", self.secrets.kept[source.luks_secret][2])
        self.assertNotEqual(source.secret, source.luks_secret)

    def test_uuids_of_secrets_follow_from_what_they_are_for(self):
        found = {keys.identity(volume, guest, purpose) for volume in "ab" for guest in "ab"
                 for purpose in keys.USAGES}
        self.assertEqual(12, len(found))
        self.assertEqual(keys.identity("a", "b", "luks"), keys.identity("a", "b", "luks"))


class PlainTest(testtools.TestCase):
    def test_a_source_survives_as_plain_data(self):
        source = VolumeSource("network", "x", hosts=(("a", 1),), initiator="i", readonly=True)
        plain = dataclasses.asdict(source)
        self.assertEqual(source, VolumeSource.from_plain(plain))
