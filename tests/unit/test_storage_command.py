import os
import signal

import fixtures

from compute.errors import Failed, Retryable, Unknown
from tests.unit.storage_support import StorageTest, qemu_img
from tests.waiting import PATIENCE
from virt.storage import command


class RunTest(StorageTest):
    def tool(self, text):
        path = self.file("tool", b"#!/bin/sh\n" + text.encode())
        os.chmod(path, 0o755)
        return path

    def test_output(self):
        self.assertEqual("one two\n", command.run(("echo", "one", "two"), PATIENCE))
        self.assertEqual("one\n", command.run(("echo", "one"), PATIENCE, ("--cpu=5",)))

    def test_arguments_are_no_options_of_prlimit(self):
        self.assertEqual("--nofile\n", command.run(("echo", "--nofile"), PATIENCE, ("--cpu=5",)))

    def test_deadline(self):
        error = self.assertFails(Retryable, "command_timeout", command.run,
                                 (self.tool("exec sleep 600"),), 0.3)
        self.assertIn("killed", error.what)

    def test_grandchild_that_keeps_the_output_open(self):
        path = os.path.join(self.dir, "pid")
        tool = self.tool(f"sleep 600 & echo $! >{path}; echo done")
        self.assertEqual("done\n", command.run((tool,), PATIENCE))
        with open(path) as file:
            os.kill(int(file.read()), signal.SIGKILL)  # it was there all the time

    def test_process_that_cannot_be_killed(self):
        self.patch(command, "_ended", lambda process, seconds, *more: False)
        error = self.assertFails(Unknown, "command_timeout", command.run, ("true",), 0.3)
        self.assertIn("cannot be killed", error.what)

    def test_failure_tells_code_and_complaint(self):
        error = self.assertFails(Failed, "command_failed", command.run,
                                 (self.tool("echo bad thing >&2; exit 3"),), PATIENCE)
        self.assertIn("code 3: bad thing", error.what)

    def test_accepted_code(self):
        self.assertEqual("", command.run((self.tool("exit 3"),), PATIENCE, accept=(0, 3)))

    def test_missing(self):
        error = self.assertFails(Failed, "command_missing", command.run, ("/nowhere/x",), PATIENCE)
        self.assertIn("/nowhere/x", error.what)

    def test_missing_behind_prlimit(self):
        self.assertFails(Failed, "command_missing", command.run, ("/nowhere/x",), PATIENCE,
                         ("--cpu=5",))

    def test_full_disk(self):
        tool = self.tool("echo 'x: No space left on device' >&2; exit 1")
        self.assertFails(Retryable, "disk_full", command.run, (tool,), PATIENCE)

    def test_language_of_complaints_is_fixed(self):
        self.useFixture(fixtures.EnvironmentVariable("LC_ALL", "de_DE.UTF-8"))
        self.assertEqual("C\n", command.run((self.tool("echo $LC_ALL"),), PATIENCE))


class LimitTest(StorageTest):
    def test_cpu_time(self):
        tool = self.file("tool", b"#!/bin/sh\nwhile :; do :; done\n")
        os.chmod(tool, 0o755)
        error = self.assertFails(Failed, "command_limit", command.run, (tool,), PATIENCE,
                                 ("--cpu=1",))
        self.assertIn("CPU time or memory", error.what)

    def test_memory(self):
        tiny = command.QemuImg(30, 2, PATIENCE)
        self.patch(command, "GIB", 10 * 2**20)
        self.assertRaises(Failed, tiny.info, self.qcow2(), "qcow2")

    def test_limits_reach_the_process(self):
        text = command.run(("cat", "/proc/self/limits"), PATIENCE, ("--cpu=7", "--as=123456789"))
        rows = {line[:26].strip(): line[26:].split()[0] for line in text.splitlines()}
        self.assertEqual(("7", "123456789"), (rows["Max cpu time"], rows["Max address space"]))


class QemuImgTest(StorageTest):
    def setUp(self):
        super().setUp()
        self.qemu_img = command.QemuImg(30, 2, PATIENCE)

    def test_info_does_not_follow_the_chain(self):
        path = os.path.join(self.dir, "image.qcow2")
        qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "/nowhere/base", "-F", "qcow2", path,
                 "64M")
        info = self.qemu_img.info(path, "qcow2")
        self.assertEqual(("/nowhere/base", 64 * 2**20),
                         (info["backing-filename"], info["virtual-size"]))

    def test_format_is_not_probed(self):
        self.assertEqual("raw", self.qemu_img.info(self.qcow2(), "raw")["format"])
        self.assertFails(Failed, "command_failed", self.qemu_img.info, self.raw(), "qcow2")

    def test_damage(self):
        path = self.qcow2()
        self.assertEqual(0, self.qemu_img.damage(path, 0))

    def test_name_that_looks_like_a_protocol(self):
        os.mkdir(os.path.join(self.dir, "nbd:"))
        path = self.qcow2("nbd:/json:x.qcow2")
        self.assertEqual("qcow2", self.qemu_img.info(path, "qcow2")["format"])
