"""What the agent inside a guest does, and what a guest has used: through RPC and fake driver."""

from __future__ import annotations

import base64
import os

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from sqlalchemy import text

from compute.errors import Failed, MagnetarError, Unknown
from compute.model import states
from compute.rpc import primitives
from compute.rpc.serializer import admin_context
from compute.steps.inside import FROZEN
from db.journal import rows
from tests.functional import test_agent_tending
from tests.functional.agent_support import Once
from tests.waiting import wait_until


class InsideTest(test_agent_tending.TendingTest):
    """What only the agent in a guest can do."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("agent", "agent_hangs"):
            self.addCleanup(setattr, self.host.driver, name, getattr(self.host.driver, name))

    def call(self, uuid: str, method: str, **args):
        """As Nova's API calls a method and waits for its answer."""
        return self.cloud.client().call(admin_context(), method,
                                        instance=self.cloud.instance(uuid), **args)

    def raised(self, uuid: str, method: str, **args) -> Exception:
        """What a call raises; Nova's class, by its name."""
        return self.assertRaises(Exception, self.call, uuid, method, **args)  # noqa: B017


class PasswordTest(InsideTest):
    def test_it_is_set_and_kept_nowhere(self):
        uuid = self.cloud.boot("password")
        self.control.server_set_password(uuid, "opensesame")
        self.assertEqual(["root", "opensesame"], self.kept(uuid, "password"))
        row = self.assert_ended(rows.DONE, uuid, "set_password")
        self.assertNotIn("opensesame", str(row))
        self.assertNotIn("opensesame", self.log.output)
        self.assertEqual(("changePassword", "compute_set_admin_password", "Success", None),
                         self.newest_event(uuid))
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_clean()

    def test_under_novas_name(self):
        uuid = self.cloud.boot("password-call")
        self.cloud.change(uuid, task_state=states.UPDATING_PASSWORD)
        self.assertIsNone(self.call(uuid, "set_admin_password", new_pass="opensesame"))
        self.assertEqual(["root", "opensesame"], self.kept(uuid, "password"))
        self.assertIsNone(self.cloud.show(uuid)["task_state"])

    def test_whose_it_is(self):
        for properties, user in (({"os_admin_user": "debian"}, "debian"),
                                 ({"os_type": "windows"}, "Administrator")):
            self.control.image_create(user, os.path.join(self.cloud.root, "tiny.raw"),
                                      disk_format="raw", properties=properties)
            uuid = self.control.server_create(user, user, "small", networks="none")["id"]
            self.cloud.wait_for(uuid, states.ACTIVE)
            self.host.at_rest()
            self.control.server_set_password(uuid, "x")
            self.assertEqual([user, "x"], self.kept(uuid, "password"))

    def test_an_encrypted_copy_for_the_owner_of_an_rsa_key(self):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
        self.control.keypair_create("mine", public)
        uuid = self.cloud.boot("password-key", key_name="mine")
        self.control.server_set_password(uuid, "opensesame")
        kept = primitives.data(self.cloud.instance(uuid))["system_metadata"]
        sealed = base64.b64decode("".join(kept[f"password_{number}"] for number in range(4)))
        self.assertEqual(b"opensesame", key.decrypt(sealed, padding.PKCS1v15()))
        self.assertIn("image_hw_machine_type", kept)  # the rest is still there

    def test_what_goes_wrong_is_told_and_the_guest_stays_what_it_is(self):
        uuid = self.cloud.boot("password-wrong")
        driver = self.host.driver
        for prepare, code, nova in (
            (lambda: setattr(driver, "agent", False), "agent_missing", "QemuGuestAgentNotEnabled"),
            (lambda: (setattr(driver, "agent", True), setattr(driver, "agent_hangs", True)),
             "agent_unresponsive", "InstanceAgentNotEnabled"),
            (lambda: (setattr(driver, "agent_hangs", False), driver.pause(uuid)), "not_running",
             "InstanceInvalidState"),
        ):
            prepare()
            self.cloud.change(uuid, task_state=states.UPDATING_PASSWORD)
            error = self.raised(uuid, "set_admin_password", new_pass="x")
            self.assertEqual(nova, type(error).__name__, error)
            row = self.assert_ended(rows.UNDONE, uuid, "set_password")
            self.assertEqual(code, row.error["code"])
            self.assert_speaks(row.error)
            shown = self.cloud.show(uuid)
            self.assertEqual((states.ACTIVE, None), (shown["vm_state"], shown["task_state"]))
        driver.resume(uuid)
        self.host.reconcile()
        self.assertIsNone(self.kept(uuid, "password"))
        self.assert_clean()

    def test_a_user_that_is_not_there(self):
        self.control.image_create("nobodys", os.path.join(self.cloud.root, "tiny.raw"),
                                  disk_format="raw", properties={"os_admin_user": "nobody"})
        uuid = self.control.server_create("nobodys", "nobodys", "small", networks="none")["id"]
        self.cloud.wait_for(uuid, states.ACTIVE)
        error = self.assertRaises(Failed, self.control.server_set_password, uuid, "x")
        self.assertEqual("password_refused", error.code)
        self.assertIsNone(self.cloud.show(uuid)["task_state"])

    def test_what_is_refused_at_once(self):
        uuid = self.cloud.boot("password-refused")
        for bad in ("", "two\nlines", None):
            self.refused("bad_password", self.control.server_set_password, uuid, bad)
        self.cloud.change(uuid, task_state=states.PAUSING)
        self.refused("busy", self.control.server_set_password, uuid, "x")
        self.cloud.change(uuid, task_state=None)
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.refused("bad_state", self.control.server_set_password, uuid, "x")
        self.assertEqual([], self.host.operations(uuid, "set_password"))

    def test_a_lost_message_clears_its_task(self):
        uuid = self.cloud.boot("password-lost")
        self.cloud.change(uuid, task_state=states.UPDATING_PASSWORD)
        self.host.reconcile()
        row = self.assert_ended(rows.UNDONE, uuid, "set_password")
        self.assertEqual("request_lost", row.error["code"])
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.assert_clean()


class QuiesceTest(InsideTest):
    def frozen(self, uuid: str) -> tuple[bool, int]:
        """(whether they stand still, how many claims say so)."""
        claims = self.host.agent.journal.claims(kind=FROZEN, guest=uuid)
        return bool(self.kept(uuid, "frozen")), len(claims)

    def let_go(self, uuid: str) -> None:
        before = len(self.host.operations(uuid, "unquiesce"))
        self.cloud.cast(uuid, "unquiesce_instance", mapping={})
        wait_until(lambda: len(self.host.operations(uuid, "unquiesce")) > before)
        self.host.at_rest()

    def test_still_and_on_again(self):
        uuid = self.cloud.boot("quiesce")
        self.assertIsNone(self.call(uuid, "quiesce_instance"))
        self.assertEqual((True, 1), self.frozen(uuid))
        self.let_go(uuid)
        self.assertEqual((False, 0), self.frozen(uuid))
        self.let_go(uuid)
        self.assertEqual((False, 0), self.frozen(uuid))
        self.assert_clean()

    def test_when_it_cannot_be(self):
        uuid = self.cloud.boot("unquiet")
        self.host.driver.agent = False
        error = self.raised(uuid, "quiesce_instance")
        self.assertEqual("QemuGuestAgentNotEnabled", type(error).__name__)
        self.assertEqual((False, 0), self.frozen(uuid))
        self.host.driver.agent = True
        self.host.driver.pause(uuid)
        error = self.raised(uuid, "quiesce_instance")
        self.assertEqual("InstanceInvalidState", type(error).__name__)
        self.assertEqual((False, 0), self.frozen(uuid))
        self.host.driver.resume(uuid)
        self.host.reconcile()
        self.assert_clean()

    def test_an_answer_that_is_lost_lets_them_go(self):
        uuid = self.cloud.boot("quiesce-lost")
        self.host.hook = Once("freeze", lambda: Unknown("No answer.", code="libvirt_timeout"),
                              "after")
        self.raised(uuid, "quiesce_instance")
        row = self.assert_ended(rows.UNDONE, uuid, "quiesce")
        self.assertEqual("freeze_unknown", row.error["code"])
        self.assert_speaks(row.error)
        self.assertEqual((False, 0), self.frozen(uuid))

    def test_nobody_lets_them_go(self):
        uuid = self.cloud.boot("forgotten")
        self.call(uuid, "quiesce_instance")
        self.host.reconcile()
        self.assertEqual((True, 1), self.frozen(uuid))
        self.later(uuid, 400)
        self.host.reconcile()
        self.assertEqual((False, 0), self.frozen(uuid))
        self.assert_clean()

    def later(self, uuid: str, seconds: float) -> None:
        """As if the freeze had been so long ago."""
        with self.host.agent.journal.engine.begin() as connection:
            connection.execute(text("UPDATE claims SET created = created - :by WHERE kind = "
                                    "'frozen' AND guest = :guest"), {"by": seconds, "guest": uuid})

    def test_an_agent_that_hangs_is_asked_again_and_told_of(self):
        uuid = self.cloud.boot("hung")
        self.cloud.set(timeouts__frozen=10)
        self.addCleanup(self.cloud.set, timeouts__frozen=300)
        self.call(uuid, "quiesce_instance")
        self.host.driver.agent_hangs = True
        self.let_go(uuid)
        self.assertEqual((True, 1), self.frozen(uuid))
        self.later(uuid, 10_000)
        self.assertIn("file systems may stand still", str(self.host.findings()))
        self.host.reconcile()  # not at once again
        self.assertEqual(1, len(self.host.operations(uuid, "unquiesce")))
        self.host.driver.agent_hangs = False
        self.control.server_reboot(uuid, hard=True)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.host.at_rest()
        self.let_go(uuid)
        self.assertEqual((False, 0), self.frozen(uuid))
        self.assert_clean()

    def test_a_guest_that_is_off_has_none(self):
        uuid = self.cloud.boot("frozen-off")
        self.call(uuid, "quiesce_instance")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        self.host.at_rest()
        self.host.reconcile()
        self.assertEqual(0, self.frozen(uuid)[1])
        self.control.server_start(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.host.at_rest()
        self.assertEqual((False, 0), self.frozen(uuid))
        self.assert_clean()


class DiagnosticsTest(InsideTest):
    def test_the_old_form(self):
        self.cloud.network()
        uuid = self.cloud.boot("figures", networks=["net"])
        found = self.call(uuid, "get_diagnostics")
        self.assertEqual(65536, found["memory"])
        for name in ("cpu0_time", "disk_read", "disk_read_req", "disk_write", "disk_write_req",
                     "disk_errors", "tap0_rx", "tap0_rx_packets", "tap0_rx_errors", "tap0_rx_drop",
                     "tap0_tx", "tap0_tx_packets", "memory-actual", "memory-rss"):
            self.assertIsInstance(found[name], int, name)
        self.assertEqual([], self.host.operations(uuid, "unsupported"))

    def test_the_new_form(self):
        self.cloud.network()
        uuid = self.cloud.boot("object", networks=["net"], config_drive=True)
        made = self.call(uuid, "get_instance_diagnostics")
        self.assertEqual(("Diagnostics", "1.0"),
                         (made["nova_object.name"], made["nova_object.version"]))
        found = primitives.data(made)
        self.assertEqual(("running", "fake", True, 1, 2, 1), tuple(
            found[name] for name in ("state", "driver", "config_drive", "num_cpus", "num_disks",
                                     "num_nics")))
        self.assertEqual({"maximum": 64, "used": 64}, primitives.data(found["memory_details"]))
        self.assertEqual("DiskDiagnostics", primitives.name(found["disk_details"][0]))
        self.assertEqual(100, primitives.data(found["nic_details"][0])["rx_octets"])
        self.assertGreaterEqual(found["uptime"], 0)
        shown = self.control.server_diagnostics(uuid)
        self.assertEqual(64, shown["memory_details"]["maximum"])
        self.assertEqual(0, shown["cpu_details"][0]["id"])

    def test_of_a_guest_that_does_not_run(self):
        uuid = self.cloud.boot("no-figures")
        self.control.server_stop(uuid)
        self.cloud.wait_for(uuid, states.STOPPED)
        for method in ("get_diagnostics", "get_instance_diagnostics"):
            error = self.raised(uuid, method)
            self.assertEqual("InstanceInvalidState", type(error).__name__)
        self.assertIn("does not run", str(self.assertRaises(
            MagnetarError, self.control.server_diagnostics, uuid)))
        self.host.driver.undefine(uuid)
        self.assertEqual("InstanceNotFound", type(self.raised(uuid, "get_diagnostics")).__name__)
