"""Live migration: whole agents and the embedded control plane, over the RPC stack."""

from __future__ import annotations

import os

from compute.errors import Refused
from compute.model import states
from compute.rpc.primitives import data
from compute.rpc.serializer import admin_context
from tests.functional.agent_support import AgentTest
from tests.waiting import wait_until


class LiveTest(AgentTest):
    hosts = 2

    def ends(self, uuid: str, host: int) -> None:
        """The server is on this host and nothing is left over on any."""
        wait_until(lambda: self.cloud.show(uuid)["host"] == self.cloud.hosts[host].name
                   and not self.cloud.show(uuid)["task_state"])
        for one in self.cloud.hosts:
            self.assert_clean(one)
        self.assertEqual(states.RUNNING, self.cloud.hosts[host].power(uuid))
        self.assertIsNone(self.cloud.hosts[1 - host].power(uuid))
        self.assertEqual([], self.host.driver.fabric.violations())

    def migration(self, uuid: str) -> dict:
        return self.control.server_migration_show(uuid)

    def test_there_and_back(self):
        uuid = self.cloud.boot()
        here = 0 if self.cloud.show(uuid)["host"] == "host1" else 1
        for target in (1 - here, here):
            self.control.server_live_migrate(uuid)
            self.ends(uuid, target)
        self.assertEqual(["completed"] * 2,
                         [m["status"] for m in self.control.server_migration_list(uuid)])

    def test_with_addresses(self):
        self.cloud.network()
        uuid = self.cloud.boot(networks=["net"])
        here = 0 if self.cloud.show(uuid)["host"] == "host1" else 1
        before = self.cloud.show(uuid)["addresses"]
        self.control.server_live_migrate(uuid)
        self.ends(uuid, 1 - here)
        self.assertEqual(before, self.cloud.show(uuid)["addresses"])

    def test_abort(self):
        uuid = self.cloud.boot()
        here = self.cloud.show(uuid)["host"]
        self.host.driver.fabric.set(samples=100_000)
        self.control.server_live_migrate(uuid)
        wait_until(lambda: self.control.server_migration_list(uuid)[-1]["status"] == "running")
        self.control.server_migration_abort(uuid)
        self.ends(uuid, 0 if here == "host1" else 1)
        self.assertEqual("cancelled", self.control.server_migration_list(uuid)[-1]["status"])

    def test_what_agents_ask_each_other(self):
        uuid = self.cloud.boot()
        here = self.cloud.show(uuid)["host"]
        other = "host2" if here == "host1" else "host1"
        client, instance = self.cloud.client(host=here), self.cloud.instance(uuid)
        host = self.cloud.hosts[0 if here == "host1" else 1]
        path = os.path.join(host.agent.conf.disk.instances_path, "probe")
        self.assertFalse(client.call(admin_context(), "check_instance_shared_storage",
                                     data={"filename": path}))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w"):
            self.assertTrue(client.call(admin_context(), "check_instance_shared_storage",
                                        data={"filename": path}))
        self.assertFalse(client.call(admin_context(), "check_instance_shared_storage",
                                     data={"filename": "/etc/passwd"}))
        client.call(admin_context(), "drop_move_claim_at_destination", instance=instance)
        answer = client.call(admin_context(), "check_can_live_migrate_source", instance=instance,
                             dest_check_data={"nova_object.name": "LibvirtLiveMigrateData",
                                              "nova_object.namespace": "nova",
                                              "nova_object.version": "1.14",
                                              "nova_object.data": {}})
        self.assertIn("outgoing", data(answer)["magnetar"])
        self.cloud.client(host=other).cast(
            admin_context(), "rollback_live_migration_at_destination", instance=instance,
            destroy_disks=True, migrate_data=None)
        self.assertEqual([], self.cloud.hosts[1 if here == "host1" else 0].operations(uuid))
        self.ends(uuid, 0 if here == "host1" else 1)

    def test_nothing_to_abort(self):
        uuid = self.cloud.boot()
        self.assertRaises(Refused, self.control.server_migration_abort, uuid)
        self.assertRaises(Refused, self.control.server_migration_force_complete, uuid)

    def test_plan(self):
        uuid = self.cloud.boot()
        plan = self.control.server_plan_live_migrate(uuid)
        self.assertEqual("can", plan.get("verdict"), plan)
        self.assertNotEqual(plan["source"], plan["destination"])
        self.assertEqual([], self.control.server_migration_list(uuid))
