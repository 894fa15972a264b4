"""Starting and stopping the embedded control plane."""

import os

import fixtures
import testtools

from compute.errors import NeedsOperator
from control.service import open_database
from tests.functional.control_support import ControlTest


class OpenTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.dir = self.useFixture(fixtures.TempDir()).path

    def refused(self, url):
        error = self.assertRaises(NeedsOperator, open_database, url)
        self.assertEqual("database_unusable", error.code)
        self.assertIn("[control] database", str(error))
        return error

    def test_a_path_that_is_no_directory(self):
        with open(f"{self.dir}/file", "wb"):
            pass
        self.refused(f"sqlite:///{self.dir}/file/control.sqlite")

    def test_a_file_that_is_no_database(self):
        with open(f"{self.dir}/control.sqlite", "wb") as file:
            file.write(b"something else entirely" * 100)
        self.assertIn("not a database", self.refused(f"sqlite:///{self.dir}/control.sqlite").what)
        self.assertEqual(2300, os.path.getsize(f"{self.dir}/control.sqlite"))

    def test_a_server_that_is_not_there_and_no_password_in_the_message(self):
        error = self.refused("postgresql+psycopg2://u:secret@/db?host=/nonexistent")
        self.assertNotIn("secret", str(error))

    def test_nonsense(self):
        self.refused("nonsense")
        self.refused("nosuchdb:///x")


class RestartTest(ControlTest):
    def test_all_is_there_after_a_restart_and_stop_may_be_repeated(self):
        host = self.agent()
        self.prepare()
        server = self.active()
        self.control.stop()
        self.control.stop()
        self.control = self.start_control()
        self.assertEqual(server["id"], self.control.server_show("one")["id"])
        host.beat()
        self.assertEqual("up", self.control.host_show("host1")["state"])

    def test_the_verbs_have_the_names_of_the_control_socket(self):
        methods = self.control.methods()
        for name in ("server.create", "server.list", "server.show", "server.delete",
                     "server.start", "server.stop", "server.reboot", "console.log",
                     "image.create", "flavor.create", "network.create", "network.delete",
                     "host.list", "host.show", "keypair.create", "group.create"):
            self.assertIn(name, methods)
            self.assertTrue(methods[name].__doc__, name)
