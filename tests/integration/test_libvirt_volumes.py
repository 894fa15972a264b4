"""Volumes of every kind that can be served here, in one real guest: NBD, iSCSI with CHAP, LUKS."""

from __future__ import annotations

import json
import os
import uuid

import libvirt
import libvirt_qemu

from compute import errors
from compute.model.volume import Volume, without_secrets
from tests import luks
from tests.integration.patience import until
from tests.integration.targets import IQN, Targets, missing
from tests.integration.test_libvirt_driver import LibvirtCase
from tests.modes import EVENTLET, NATIVE, once
from virt.libvirt import volumes as disks
from virt.libvirt.secrets import LibvirtSecrets
from virt.volumes.volumes import Volumes
from virt.xml.domain import Domain

PASSWORD, PASSPHRASE = "twelve-chars-or-more", "a passphrase of the key manager"
MIB = 1 << 20


@once(NATIVE, EVENTLET)
class TestVolumes(LibvirtCase):
    def setUp(self):
        super().setUp()
        if why := missing():
            self.skipTest(why)
        self.host = self.driver()
        self.conf.set_override("host", "a-host")
        self.targets = self.useFixture(Targets(self.daemon, self.base))
        self.secrets = LibvirtSecrets(self.host.connection)
        self.volumes = Volumes(self.conf, self.secrets)
        self.subject, disk = self.guest()
        self.define(self.host, self.subject, disk)
        self.host.power_on(self.subject.uuid)
        self.handle = self.host.domains.required(self.subject.uuid)

    def connections(self):
        """Target in the guest -> the connection, the file behind it."""
        files = {name: self.targets.file(name) for name in ("nbd", "iscsi", "luks")}
        self.targets.nbd(files["nbd"])
        self.targets.iscsi(files["iscsi"], "user", PASSWORD)
        luks.make(files["luks"], PASSPHRASE, "8M")
        kinds = {
            "nbd": {"host": "127.0.0.1", "port": 10809, "export": "volume"},
            "iscsi": {
                "target_portal": "127.0.0.1:3260", "target_iqn": IQN, "target_lun": 1,
                "auth_method": "CHAP", "auth_username": "user", "auth_password": PASSWORD,
                "qos_specs": {"total_iops_sec": "500"}, "discard": True,
            },
            "local": {"device_path": files["luks"], "encrypted": True, "passphrase": PASSPHRASE},
        }  # fmt: skip
        made = {kind: {"driver_volume_type": kind, "serial": str(uuid.uuid4()), "data": data}
                for kind, data in kinds.items()}
        return {"vdb": (made["nbd"], files["nbd"]), "vdc": (made["iscsi"], files["iscsi"]),
                "vdd": (made["local"], files["luks"])}

    def attach(self, target, connection):
        """Attach a volume to the running guest by libvirt alone."""
        source = self.volumes.connect(connection, self.subject.uuid)
        text = disks.device(Volume(connection["serial"], target=target), source).to_xml()
        for word in (PASSWORD, PASSPHRASE):
            self.assertNotIn(word, text)
        for flag in (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG):
            self.host.connection.call("attach", self.handle.attachDeviceFlags, text, flag)

    def qemu_io(self, serial, command):
        """Let QEMU itself read or write the disk; it says what it did to its own log."""
        before = self.said(command)
        answer = json.loads(libvirt_qemu.qemuMonitorCommand(
            self.handle, json.dumps({"execute": "query-block"}), 0))
        [path] = [each["qdev"] for each in answer["return"]
                  if f"/{self.alias[serial]}/" in each.get("qdev", "")]
        libvirt_qemu.qemuMonitorCommand(
            self.handle, f'qemu-io -d {path} "{command}"',
            libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)  # fmt: skip
        self.assertTrue(until(lambda: self.said(command) > before, 30), self.qemu_log())

    def said(self, command):
        """How many times QEMU has read or written as it was told to."""
        verb = "wrote" if command.startswith("write") else "read"
        return self.qemu_log().count(f"{verb} 65536/65536 bytes at offset {MIB}")

    def qemu_log(self):
        return (self.daemon.base / f"log/qemu/{self.subject.name}.log").read_text()

    def kept(self):
        """The secrets that libvirt keeps for this guest's volumes."""
        return [name for name in self.secrets.ours().values() if self.subject.uuid in name]

    @property
    def alias(self):
        """libvirt's alias of each volume's disk, by serial."""
        found = Domain.parse(self.handle.XMLDesc(0)).devices.disks
        return {disk.serial: disk.node.find("alias").get("name") for disk in found}

    def test_a_guest_uses_volumes_of_every_kind(self):
        kinds = self.connections()
        for target, (connection, _) in kinds.items():
            self.attach(target, connection)
        for connection, path in kinds.values():
            serial = connection["serial"]
            self.qemu_io(serial, "write -P 0x4d 1M 64k")
            self.qemu_io(serial, "read -P 0x4d 1M 64k")
            with open(path, "rb") as file:
                content = file.read()
            where = content.find(b"M" * 4096)
            self.assertEqual(-1 if connection["data"].get("encrypted") else MIB, where, path)
        self.assertEqual(1, self.targets.sessions())
        self.assertEqual(2, len(self.kept()))
        self.grows(*kinds["vdd"])
        self.survives_a_reboot(kinds)
        self.host.power_off(self.subject.uuid)
        self.assertTrue(until(lambda: not self.targets.sessions()))
        for connection, _ in kinds.values():
            for _ in range(2):
                self.volumes.disconnect(without_secrets(connection), self.subject.uuid)
        self.assertEqual([], self.kept())

    def grows(self, connection, path):
        """An encrypted volume grows by what was added, and no further: its header stays."""
        size = os.stat(path).st_size
        before = self.volumes.usable(without_secrets(connection))
        self.assertLess(before, size)
        os.truncate(path, size + 8 * MIB)
        self.assertEqual(size + 8 * MIB, self.volumes.grow(without_secrets(connection)))
        grown = self.volumes.usable(without_secrets(connection))
        self.assertEqual(before + 8 * MIB, grown)
        self.host.connection.call("grow", self.handle.blockResize, "vdd", grown,
                                  libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)  # fmt: skip
        self.assertEqual(grown, self.handle.blockInfo("vdd")[0])
        self.assertEqual(size + 8 * MIB, os.stat(path).st_size)

    def survives_a_reboot(self, kinds):
        """Connected again with what may be written down, also after libvirtd's own restart."""
        self.host.power_off(self.subject.uuid)
        self.daemon.restart()
        self.assertTrue(until(self.host.connected))
        self.handle = self.host.domains.required(self.subject.uuid)
        for connection, _ in kinds.values():
            self.volumes.connect(without_secrets(connection), self.subject.uuid)
        self.host.power_on(self.subject.uuid)
        for connection, _ in kinds.values():
            self.qemu_io(connection["serial"], "read -P 0x4d 1M 64k")
        self.assertNotIn("Pattern verification failed", self.qemu_log())

    def test_a_wrong_password_and_an_unknown_secret(self):
        path = self.targets.file("iscsi")
        self.targets.iscsi(path, "user", PASSWORD)
        data = {"target_portal": "127.0.0.1:3260", "target_iqn": IQN, "target_lun": 1,
                "auth_method": "CHAP", "auth_username": "user", "auth_password": "x" * 12}
        connection = {"driver_volume_type": "iscsi", "serial": str(uuid.uuid4()), "data": data}
        error = self.assertRaises(errors.MagnetarError, self.attach, "vdb", connection)
        self.assertIn("iscsi", error.what.lower())
        self.volumes.disconnect(connection, self.subject.uuid)
        error = self.assertRaises(errors.Failed, self.volumes.connect,
                                  without_secrets(connection), self.subject.uuid)
        self.assertEqual("volume_secret_missing", error.code)
        self.assertEqual([], self.kept())
