"""Volumes by os-brick's own classes. What they run is answered as the real commands do, since the
kernel needs modules for them that not every machine has."""

from __future__ import annotations

import os
import threading
import time

import fixtures
import testtools
from os_brick import exception
from oslo_concurrency import processutils
from oslo_config import cfg

from compute import errors
from compute.model.volume import VolumeSource
from tests.golden.test_domains import options
from tests.unit.test_volumes import CHAP, FACTS, GUEST, VOLUME, VolumesCase, info
from tests.waiting import PATIENCE
from virt.volumes.library import Library
from virt.volumes.volumes import Volumes

OTHER = "6f1e2d3c-0000-4000-8000-000000000002"
PORTAL, IQN = CHAP["target_portal"], CHAP["target_iqn"]
NFS = {"export": "192.0.2.1:/volumes", "name": "volume-1", "format": "raw"}
LINUX = "os_brick.initiator.linuxscsi.LinuxSCSI"


class Commands:
    """Answers what os-brick executes. ``iscsiadm`` says what open-iscsi 2.1.8 says, of a target
    that is there unless ``down``."""

    def __init__(self, base):
        self.base, self.ran, self.down = base, [], False
        self.nodes, self.sessions, self.mounted = set(), set(), {}

    def __call__(self, *argv, **options):
        argv = tuple(map(str, argv))
        self.ran.append(argv)
        code, out, complaint = getattr(self, argv[0].replace(".", "_"), self.other)(argv)
        accepted = options.get("check_exit_code", (0,))
        accepted = (accepted,) if type(accepted) is int else accepted
        if accepted and code not in accepted:
            raise processutils.ProcessExecutionError(out, complaint, code, " ".join(argv))
        return out, complaint

    def other(self, argv):
        return 0, "", ""

    def iscsiadm(self, argv):
        node = (PORTAL, IQN)
        if "session" in argv:
            lines = "".join(f"tcp: [1] {portal},1 {iqn} (non-flash)\n"
                            for portal, iqn in self.sessions)
            return (0, lines, "") if lines else (21, "", "iscsiadm: No active sessions.\n")
        if "new" in argv:
            self.nodes.add(node)
        elif "--login" in argv:
            if self.down:
                return 8, "", "iscsiadm: Could not log into all portals\n"
            self.sessions.add(node)
        elif "--logout" in argv:
            self.sessions.discard(node)
        elif "delete" in argv:
            self.nodes.discard(node)
        elif node not in self.nodes:
            return 21, "", "iscsiadm: No records found\n"
        elif "-T" not in argv:
            return 0, f"{PORTAL},1 {IQN}\n", ""
        return 0, "", ""

    def mkdir(self, argv):
        os.makedirs(argv[-1], exist_ok=True)
        return 0, "", ""

    def mount(self, argv):
        if self.down or "vers=4,minorversion=2" in argv[4]:
            return 32, "", "mount: unknown filesystem type 'nfs'.\n"
        self.mounted[argv[-1]] = argv[-2]
        with open(os.path.join(argv[-1], "volume-1"), "wb") as file:
            file.truncate(1 << 20)
        return 0, "", ""


class BrickCase(VolumesCase):
    def setUp(self):
        super().setUp()
        self.option("volume_iscsi", "host")
        self.option("num_volume_scan_tries", 1)
        self.commands = Commands(self.base)
        self.gone = []
        commands, real = self.commands, Library.connector

        def connector(library, protocol, **more):
            return real(library, protocol, execute=commands, **more)

        self.patch("virt.volumes.library.Library.connector", connector)
        self.patch("time.sleep", lambda seconds, real=time.sleep: real(min(seconds, 0.01)))
        for name, answer in (
            ("get_hctl", lambda linux, session, lun: ("2", "0", "0", str(lun))),
            ("device_name_by_hctl", lambda linux, session, hctl: "sdq"),
            ("scan_iscsi", lambda linux, *hctl: None),
            ("get_sysfs_wwn", lambda linux, devices, *rest: "wwn-1"),
            ("remove_connection", lambda linux, devices, *rest, **more: self.gone.append(devices)),
        ):
            self.patch(f"{LINUX}.{name}", answer)
        Library(self.conf.libvirt, self.base)._module()  # where locks are is decided once
        cfg.CONF.set_override("lock_path", self.base, "os_brick")
        self.addCleanup(cfg.CONF.clear_override, "lock_path", "os_brick")

    def patch(self, name, value):
        self.useFixture(fixtures.MonkeyPatch(name, value))

    def disconnect(self, guest, kind, **data):
        self.volumes.disconnect(info(kind, **data), guest)


class ISCSITest(BrickCase):
    def test_connected_used_by_two_and_disconnected(self):
        source = self.connect("iscsi", **CHAP)
        self.assertEqual(VolumeSource("block", "/dev/sdq", discard=False, serial=VOLUME), source)
        self.assertEqual(source, self.connect("iscsi", **CHAP))
        self.assertEqual(source, self.volumes.connect(info("iscsi", **CHAP), OTHER))
        self.assertEqual({(PORTAL, IQN)}, self.commands.sessions)
        logins = [argv for argv in self.commands.ran if "--login" in argv]
        self.assertEqual(1, len(logins))
        self.assertTrue(any("s3cret" in argv for argv in self.commands.ran))
        self.disconnect(GUEST, "iscsi", **CHAP)
        self.assertEqual({(PORTAL, IQN)}, self.commands.sessions)
        for _ in range(2):
            self.disconnect(OTHER, "iscsi", **CHAP)
        self.assertEqual((set(), set()), (self.commands.sessions, self.commands.nodes))
        self.assertEqual([set()], self.gone)
        self.assertEqual([], os.listdir(os.path.join(self.base, "volumes")))

    def test_what_was_not_connected_by_us_is_left_alone(self):
        self.commands.sessions.add((PORTAL, IQN))
        self.disconnect(GUEST, "iscsi", **CHAP)
        self.assertEqual({(PORTAL, IQN)}, self.commands.sessions)
        self.assertEqual([], self.gone)

    def test_a_target_that_is_down(self):
        self.commands.down = True
        error = self.refused("volume_unreachable", "iscsi", **CHAP)
        self.assertIsInstance(error, errors.Retryable)
        self.assertNotIn("s3cret", str(error))
        self.disconnect(GUEST, "iscsi", **CHAP)
        self.assertEqual((set(), set()), (self.commands.sessions, self.commands.nodes))

    def test_another_agent_process_knows_who_uses_it(self):
        self.connect("iscsi", **CHAP)
        Volumes(self.conf, self.secrets).disconnect(info("iscsi", **CHAP), GUEST)
        self.assertEqual(set(), self.commands.sessions)

    def test_users_that_cannot_be_read_are_unknown(self):
        self.connect("iscsi", **CHAP)
        [name] = os.listdir(os.path.join(self.base, "volumes"))
        with open(os.path.join(self.base, "volumes", name), "w") as file:
            file.write("{")
        error = self.assertRaises(errors.Unknown, self.disconnect, GUEST, "iscsi", **CHAP)
        self.assertEqual("volume_users_unknown", error.code)
        self.assertEqual({(PORTAL, IQN)}, self.commands.sessions)

    def test_the_size_is_os_bricks(self):
        self.connect("iscsi", **CHAP)
        self.patch("os_brick.initiator.connectors.iscsi.ISCSIConnector.get_volume_paths",
                   lambda connector, properties: ["/dev/sdq"])
        self.patch(f"{LINUX}.extend_volume", lambda linux, paths, use_multipath: 5 << 30)
        self.assertEqual(5 << 30, self.volumes.grow(info("iscsi", **CHAP)))


class OtherTypesTest(BrickCase):
    def test_every_type_of_cinder_has_a_connector(self):
        library = Library(self.conf.libvirt, self.base)
        for kind in ("iscsi", "iser", "fibre_channel", "nvmeof", "rbd", "scaleio", "lightos",
                     "gpfs"):
            connector = library.connector(kind)
            for method in ("connect_volume", "disconnect_volume", "extend_volume"):
                self.assertTrue(callable(getattr(connector, method)), kind)
        error = self.assertRaises(errors.Failed, library.connector, "storpool")
        self.assertIn("StorPool", error.what)  # its own configuration is not here

    def test_a_real_class_from_end_to_end(self):
        path = self.file("gpfs", 2 << 20)
        source = self.connect("gpfs", device_path=path, format="raw")
        self.assertEqual(("file", path, "raw"), (source.kind, source.path, source.format))
        self.assertEqual(2 << 20, self.volumes.grow(info("gpfs", device_path=path)))
        self.disconnect(GUEST, "gpfs", device_path=path)
        self.assertTrue(os.path.exists(path))

    def test_a_type_that_nobody_knows(self):
        error = self.refused("volume_unsupported", "punch_cards", drawer=1)
        self.assertIn("PUNCH_CARDS", error.what.upper())

    def test_a_path_that_is_none(self):
        self.patch("os_brick.initiator.connectors.gpfs.GPFSConnector.connect_volume",
                   lambda connector, data: {"path": object()})
        self.refused("volume_unacceptable", "gpfs", device_path=self.file())

    def test_errors_of_os_brick(self):
        for raised, kind, code in (
            (exception.VolumeDeviceNotFound(device="/dev/x"), errors.Retryable,
             "volume_unreachable"),
            (exception.ExecutionTimeout(cmd="multipath -f"), errors.Unknown, "volume_timeout"),
            (exception.InvalidParameterValue(err="x"), errors.Failed, "volume_failed"),
            (TimeoutError("took long"), errors.Unknown, "volume_timeout"),
            (OSError(2, "no iscsiadm"), errors.Retryable, "volume_unreachable"),
        ):
            def fail(connector, data, raised=raised):
                raise raised

            self.patch("os_brick.initiator.connectors.gpfs.GPFSConnector.connect_volume", fail)
            error = self.refused(code, "gpfs", device_path="/x")
            self.assertIs(kind, type(error))

    def test_volume_use_multipath_and_its_like(self):
        self.option("volume_use_multipath", True)
        self.option("num_volume_scan_tries", 9)
        connector = Library(self.conf.libvirt, self.base).connector("iscsi")
        self.assertEqual((True, 9), (connector.use_multipath, connector.device_scan_attempts))

    def test_connector_properties_are_os_bricks(self):
        seen = []

        def found(root_helper, address, multipath, enforce, host):
            seen.append((root_helper, address, multipath, enforce, host))
            return {"initiator": "iqn.kernel", "wwpns": ["5001"], "multipath": True}

        self.patch("os_brick.initiator.connector.get_connector_properties", found)
        self.option("volume_enforce_multipath", True)
        self.option("volume_root_helper", "doas")
        properties = self.volumes.connector_properties(FACTS)
        self.assertEqual([("doas", "192.0.2.9", False, True, "node-1")], seen)
        self.assertEqual(("iqn.kernel", ["5001"], "192.0.2.9"), (
            properties["initiator"], properties["wwpns"], properties["ip"]))

    def test_without_os_brick(self):
        self.patch("builtins.__import__", _without("os_brick", __import__))
        error = self.refused("volume_library_missing", "fibre_channel", target_lun=1)
        self.assertIn("pip install", error.next)


def _without(name, real):
    def imported(module, *args, **kwargs):
        if module.startswith(name):
            raise ImportError(f"No module named {name!r}")
        return real(module, *args, **kwargs)
    return imported


class DeadlineTest(BrickCase):
    def test_volume_timeout_is_unknown_and_the_next_one_waits_for_it(self):
        self.option("volume_timeout", 1)
        goes_on, ended = threading.Event(), []

        def slow(connector, data):
            goes_on.wait(PATIENCE)
            ended.append("connected")
            return {"path": data["device_path"]}

        self.addCleanup(goes_on.set)
        self.patch("os_brick.initiator.connectors.gpfs.GPFSConnector.connect_volume", slow)
        self.patch("os_brick.initiator.connectors.gpfs.GPFSConnector.disconnect_volume",
                   lambda connector, data, device: ended.append("disconnected"))
        path = self.file()
        error = self.refused("volume_timeout", "gpfs", device_path=path)
        self.assertIsInstance(error, errors.Unknown)
        self.assertRaises(errors.Unknown, self.disconnect, GUEST, "gpfs", device_path=path)
        self.assertEqual([], ended)
        goes_on.set()
        self.option("volume_timeout", PATIENCE)
        self.disconnect(GUEST, "gpfs", device_path=path)
        self.assertEqual(["connected", "disconnected"], ended[:2])

    def test_what_could_not_begin_is_not_done_later(self):
        library = Library(self.conf.libvirt, self.base)
        goes_on, done = threading.Event(), []
        self.addCleanup(goes_on.set)
        self.patch("virt.volumes.library.WORKERS", 1)
        library = Library(self.conf.libvirt, self.base)
        self.option("volume_timeout", 1)
        self.assertRaises(errors.Unknown, library.run, "wait", lambda: goes_on.wait(PATIENCE))
        error = self.assertRaises(errors.Retryable, library.run, "act", lambda: done.append(1))
        self.assertEqual("volume_busy", error.code)
        goes_on.set()
        self.option("volume_timeout", PATIENCE)
        library.run("look", lambda: None)
        self.assertEqual([], done)


class ShareTest(BrickCase):
    def setUp(self):
        super().setUp()
        self.patch("os.path.ismount", lambda path: path in self.commands.mounted)
        self.patch("os_brick.remotefs.remotefs.RemoteFsClient._read_mounts",
                   lambda client: dict(self.commands.mounted))
        self.patch("virt.volumes.share.command.run", self.unmount)
        self.busy = False

    def unmount(self, argv, seconds):
        self.assertEqual("umount", argv[0])
        if self.busy:
            raise errors.Failed("umount: target is busy", code="command_failed")
        self.commands.mounted.pop(argv[1])
        os.unlink(os.path.join(argv[1], "volume-1"))

    def test_the_last_volume_takes_the_mount_along(self):
        source = self.connect("nfs", **NFS)
        self.assertEqual(("file", "raw"), (source.kind, source.format))
        self.assertTrue(source.path.startswith(os.path.join(self.base, "mnt/nfs/")))
        self.assertEqual(source, self.connect("nfs", **NFS))
        self.volumes.connect(info("nfs", **NFS), OTHER)
        self.assertEqual(["192.0.2.1:/volumes"], list(self.commands.mounted.values()))
        self.assertEqual(1 << 20, self.volumes.grow(info("nfs", **NFS)))
        self.disconnect(GUEST, "nfs", **NFS)
        self.assertEqual(1, len(self.commands.mounted))
        for _ in range(2):
            self.disconnect(OTHER, "nfs", **NFS)
        self.assertEqual({}, self.commands.mounted)
        self.assertEqual([], os.listdir(os.path.join(self.base, "mnt/nfs")))

    def test_a_mount_that_is_busy_stays_and_so_does_its_user(self):
        self.connect("nfs", **NFS)
        self.busy = True
        self.assertRaises(errors.Failed, self.disconnect, GUEST, "nfs", **NFS)
        self.busy = False
        self.disconnect(GUEST, "nfs", **NFS)
        self.assertEqual({}, self.commands.mounted)

    def test_nfs_mount_options(self):
        self.option("nfs_mount_options", "vers=4.2,soft")
        self.connect("nfs", **NFS)
        [mounted] = [argv for argv in self.commands.ran if argv[0] == "mount"]
        self.assertIn("vers=4.2,soft", mounted)

    def test_a_kernel_without_nfs(self):
        self.commands.down = True
        error = self.refused("volume_failed", "nfs", **NFS)
        self.assertIn("unknown filesystem type", error.what)

    def test_what_cannot_be_used(self):
        self.refused("volume_missing", "nfs", **{**NFS, "name": "volume-2"})
        for data in ({**NFS, "name": "../escape"}, {**NFS, "format": "vmdk"},
                     {"name": "volume-1"}):  # fmt: skip
            self.refused("volume_unacceptable", "nfs", **data)


class RealLockTest(testtools.TestCase):
    def test_locks_are_below_the_agents_state_unless_told_otherwise(self):
        base = self.useFixture(fixtures.TempDir()).path
        cfg.CONF.clear_override("lock_path", "os_brick")
        cfg.CONF.clear_default("lock_path", "os_brick")
        Library(options({}).libvirt, base)._module()
        self.assertEqual(os.path.join(base, "locks"), cfg.CONF.os_brick.lock_path)
        self.assertTrue(os.path.isdir(cfg.CONF.os_brick.lock_path))
