"""Who a host is: registration, heartbeat, and the guards against disowning guests."""

from __future__ import annotations

import threading
import uuid as uuids

from compute.agent import Agent, Stopping
from compute.errors import NeedsOperator
from compute.model import states
from db.control import services
from db.control.types import parse_time, utcnow
from tests.functional.agent_support import AgentTest
from tests.functional.control_support import new_transport
from tests.waiting import PATIENCE, wait_until


class RegistrationTest(AgentTest):
    hosts = 0

    def service(self, host: str = "host1"):
        with self.control.store.begin() as connection:
            return services.get(connection, host)

    def nodes(self):
        with self.control.store.begin() as connection:
            return services.nodes(connection)

    def test_a_new_host(self):
        host = self.cloud.add_host("host1", vcpus=4, memory_mb=2048, disk_gb=50)
        service, [node] = self.service(), self.nodes()
        self.assertEqual(("nova-compute", "compute", 74),
                         (service["binary"], service["topic"], service["version"]))
        self.assertEqual(
            ("host1", "host1", 4, 2048, 50, 512, 0),
            tuple(node[name] for name in ("host", "hypervisor_hostname", "vcpus", "memory_mb",
                                          "local_gb", "memory_mb_used", "vcpus_used")))
        identity = (host.root / "compute_id").read_text().strip()
        self.assertEqual(node["uuid"], identity)
        self.assertEqual("up", self.control.host_show("host1")["state"])

    def test_a_restart_is_the_same_host(self):
        host = self.cloud.add_host("host1")
        before = (self.service()["id"], [node["uuid"] for node in self.nodes()])
        host.restart()
        self.assertEqual(before, (self.service()["id"], [n["uuid"] for n in self.nodes()]))

    def test_heartbeats(self):
        self.cloud.set(report_interval=1)
        self.cloud.add_host("host1")
        before, began = self.service()["report_count"], utcnow()
        wait_until(lambda: self.service()["report_count"] >= before + 2)
        self.assertGreaterEqual(parse_time(self.service()["last_seen_up"]), began)

    def test_a_service_record_that_was_removed_is_made_again(self):
        host = self.cloud.add_host("host1")
        service = self.service()
        with self.control.store.begin() as connection:
            services.destroy(connection, service["id"])
        host.agent.node.heartbeat()
        self.assertIsNotNone(self.service())

    def test_an_upgrade_announces_its_version(self):
        host = self.cloud.add_host("host1")
        self.cloud.set(service_version=75)
        host.restart()
        self.assertEqual(75, self.service()["version"])


class GuardTest(AgentTest):
    hosts = 0

    def refused(self, host) -> NeedsOperator:
        error = self.assertRaises(NeedsOperator, host.start)
        self.assertEqual("identity", error.code)
        self.assertIn("The agent did not start; guests were not touched.", error.now)
        self.assert_speaks(error)
        return error

    def booted(self):
        host = self.cloud.add_host("host1")
        guest = self.cloud.boot("kept")
        host.stop()
        return host, guest

    def still_runs(self, host, guest) -> None:
        self.assertEqual(states.RUNNING, host.make_driver().state(guest).power_state)
        self.assertEqual("ACTIVE", self.cloud.show(guest)["status"])

    def test_the_identity_file_is_lost(self):
        host, guest = self.booted()
        path = host.root / "compute_id"
        kept = path.read_text()
        path.unlink()
        error = self.refused(host)
        self.assertIn(f"its identity file {path} is missing", error.what)
        self.assertFalse(path.exists())
        path.write_text(kept)
        host.start()
        self.assertEqual(states.RUNNING, host.power(guest))

    def test_the_identity_file_is_damaged(self):
        host, guest = self.booted()
        (host.root / "compute_id").write_text("not a uuid\n")
        self.assertIn("does not hold a uuid", self.refused(host).what)
        self.still_runs(host, guest)

    def test_the_host_was_renamed(self):
        host, guest = self.booted()
        host.conf._values["host"] = "renamed"
        error = self.refused(host)
        self.assertIn("belongs to host host1, but this agent is host renamed", error.what)
        self.still_runs(host, guest)

    def test_the_hypervisor_was_renamed(self):
        host, guest = self.booted()
        host.facts["hostname"] = "other-name"
        error = self.refused(host)
        self.assertIn("hypervisor host name host1; it is other-name now", error.what)
        self.still_runs(host, guest)

    def test_a_new_host_that_has_guests_already(self):
        host, guest = self.booted()
        (host.root / "compute_id").unlink()
        host.conf._values["host"] = "brand-new"
        self.assertIn("yet its hypervisor has guests", self.refused(host).what)
        self.assertFalse((host.root / "compute_id").exists())
        self.still_runs(host, guest)

    def test_a_cell_that_is_too_old(self):
        with self.control.store.begin() as connection:
            services.create(connection, {"host": "old", "binary": "nova-compute",
                                         "topic": "compute", "version": 70,
                                         "uuid": str(uuids.uuid4()), "report_count": 0})
        host = self.cloud.add_host("host1", start=False)
        error = self.refused(host)
        self.assertIn("oldest nova-compute service has version 70", error.what)
        with self.control.store.begin() as connection:
            self.assertIsNone(services.get(connection, "host1"))

    def test_a_start_that_waits_for_the_conductor_can_be_ended(self):
        host = self.cloud.add_host("host1", start=False)
        alone = new_transport()
        agent = Agent(host.conf, alone, driver=host.make_driver())
        ended = []

        def start():
            try:
                agent.start()
            except Stopping:
                ended.append(True)

        thread = threading.Thread(target=start)
        thread.start()
        wait_until((host.root / "s.sock").exists)
        self.assertEqual("starting", agent.health()["status"])
        agent.give_up()
        thread.join(PATIENCE)
        self.assertEqual([True], ended)
        agent.stop()
