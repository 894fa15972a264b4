"""What agents do for moves, as far as the control plane and each other can see; and tests with
several of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import oslo_messaging
from oslo_config import cfg

from compute.errors import MagnetarError
from compute.rpc import primitives
from compute.rpc.primitives import data
from compute.rpc.serializer import ContextSerializer
from db.control import services, tables
from db.control.types import utcnow
from tests.functional.control_support import FAR, Agent, ControlTest
from tests.waiting import wait_until

Row = dict[str, Any]


def peer_cast(agent: Agent, context: Any, host: str, method: str, **args: Any) -> None:
    """Cast to another agent, on the topic that agents use between them."""
    target = oslo_messaging.Target(topic="compute-alt", version="6.0")
    client = oslo_messaging.get_rpc_client(agent.transport, target,
                                           serializer=ContextSerializer())
    client.prepare(server=host).cast(context, method, **args)


def place(agent: Agent) -> Row:
    """The fields that say that a server is on this host."""
    return {"host": agent.host, "node": data(agent.node)["hypervisor_hostname"],
            "compute_id": data(agent.node)["id"]}


def dest(agent: Agent) -> Row:
    """The fields that say that a migration goes to this host."""
    here = place(agent)
    return {"dest_compute": here["host"], "dest_node": here["node"],
            "dest_compute_id": here["compute_id"], "dest_host": "127.0.0.1"}


def sizes(flavor: Row) -> Row:
    """The plain fields of an instance that follow from its flavor."""
    fields = data(flavor)
    return {"instance_type_id": fields["id"],
            **{name: fields[name] for name in ("memory_mb", "vcpus", "root_gb", "ephemeral_gb")}}


def prep_resize(agent: Agent, context: Any, args: Row) -> None:
    instance = args["instance"]
    old = {**data(instance)["system_metadata"], "old_vm_state": data(instance)["vm_state"]}
    instance = agent.save(instance, context, new_flavor=args["flavor"], system_metadata=old)
    migration = agent.save(args["migration"], context, status="pre-migrating", **dest(agent))
    moving = primitives.make("MigrationContext", {
        "instance_uuid": data(instance)["uuid"], "migration_id": data(migration)["id"]})
    instance = agent.save(instance, context, migration_context=moving)
    peer_cast(agent, context, data(migration)["source_compute"], "resize_instance",
              instance=instance, migration=migration, image=args["image"],
              flavor=args["flavor"], clean_shutdown=True, request_spec=args["request_spec"])


def resize_instance(agent: Agent, context: Any, args: Row) -> None:
    migration = agent.save(args["migration"], context, status="migrating")
    instance = agent.save(args["instance"], context, "resize_prep", task_state="resize_migrating")
    migration = agent.save(migration, context, status="post-migrating")
    to = data(migration)
    instance = agent.save(
        instance, context, "resize_migrating", task_state="resize_migrated",
        host=to["dest_compute"], node=to["dest_node"], compute_id=to["dest_compute_id"],
        old_flavor=data(instance)["flavor"])
    peer_cast(agent, context, to["dest_compute"], "finish_resize", instance=instance,
              migration=migration, image=args["image"], disk_info="", request_spec=None)


def finish_resize(agent: Agent, context: Any, args: Row) -> None:
    new = data(args["instance"])["new_flavor"]
    instance = agent.save(args["instance"], context, "resize_migrated",
                          task_state="resize_finish", flavor=new, **sizes(new))
    agent.save(args["migration"], context, status="finished")
    agent.save(instance, context, "resize_finish", vm_state="resized", task_state=None,
               launched_at=primitives.now())


def confirm_resize(agent: Agent, context: Any, args: Row) -> None:
    agent.save(args["migration"], context, status="confirmed")
    instance = args["instance"]
    agent.action(instance, "drop_migration_context", context)
    state = data(instance)["system_metadata"].get("old_vm_state", "active")
    agent.save(instance, context, [None, "deleting", "soft-deleting"], vm_state=state,
               task_state=None, old_flavor=None, new_flavor=None)


def revert_resize(agent: Agent, context: Any, args: Row) -> None:
    migration = agent.save(args["migration"], context, status="reverted")
    peer_cast(agent, context, data(migration)["source_compute"], "finish_revert_resize",
              instance=args["instance"], migration=migration,
              request_spec=args["request_spec"])


def finish_revert_resize(agent: Agent, context: Any, args: Row) -> None:
    old = data(args["instance"])["old_flavor"]
    instance = agent.save(args["instance"], context, ["resize_reverting"], flavor=old,
                          **sizes(old), **place(agent))
    agent.action(instance, "drop_migration_context", context)
    agent.save(instance, context, vm_state="active", task_state=None, old_flavor=None,
               new_flavor=None)


def check_destination(agent: Agent, context: Any, args: Row) -> Row:
    fields = {"is_shared_block_storage": False, "block_migration": bool(args["block_migration"])}
    return {"nova_object.name": "LibvirtLiveMigrateData", "nova_object.namespace": "nova",
            "nova_object.version": "1.14", "nova_object.data": fields}


def queued(agent: Agent, context: Any, args: Row) -> None:
    """A live migration that waits in its host's queue."""
    agent.save(args["migration"], context, status="queued")


def running(agent: Agent, context: Any, args: Row) -> None:
    """A live migration that does not end by itself."""
    agent.save(args["migration"], context, status="running", memory_total=100,
               memory_remaining=40)


def live_migration(agent: Agent, context: Any, args: Row) -> None:
    migration = agent.save(args["migration"], context, status="queued")
    migration = agent.save(migration, context, status="running")
    to = data(migration)
    agent.own("network_bind", instance_uuid=data(args["instance"])["uuid"],
              host=to["dest_compute"])
    agent.save(args["instance"], context, "migrating", task_state=None,
               host=to["dest_compute"], node=to["dest_node"], compute_id=to["dest_compute_id"])
    agent.save(migration, context, status="completed")


def live_migration_abort(agent: Agent, context: Any, args: Row) -> None:
    migration = agent.ask("Migration.get_by_id", args["migration_id"])
    agent.save(migration, context, status="cancelled")
    agent.save(args["instance"], context, "migrating", task_state=None)


def rebuild_instance(agent: Agent, context: Any, args: Row) -> None:
    migration = agent.save(args["migration"], context, status="pre-migrating", **dest(agent))
    state = data(args["instance"])["vm_state"]
    agent.save(args["instance"], context, ["rebuilding"], task_state=None, **place(agent),
               vm_state=state if state == "stopped" else "active")
    agent.save(migration, context, status="done")


SCRIPT = {
    "prep_resize": prep_resize, "resize_instance": resize_instance,
    "finish_resize": finish_resize, "confirm_resize": confirm_resize,
    "revert_resize": revert_resize, "finish_revert_resize": finish_revert_resize,
    "check_can_live_migrate_destination": check_destination, "live_migration": live_migration,
    "live_migration_abort": live_migration_abort, "rebuild_instance": rebuild_instance,
}


class MovesTest(ControlTest):
    """Agents on ``hosts``, an image, two flavors and a network."""

    hosts = ("host1", "host2")

    def setUp(self):
        super().setUp()
        self.agents = {name: self.agent(name) for name in self.hosts}
        for agent in self.agents.values():
            agent.script.update(SCRIPT)
        self.prepare()
        self.control.flavor_create("large", vcpus=2, ram=1024, disk=2)
        self.control.network_create("net", "192.0.2.0/24")

    def override(self, name, value):
        cfg.CONF.set_override(name, value, "control")
        self.addCleanup(cfg.CONF.clear_override, name, "control")

    def refused(self, code, function, *args, **kwargs):
        error = self.assertRaises(MagnetarError, function, *args, **kwargs)
        self.assertEqual(code, error.code, error)
        return error

    def on(self, host, name="one", **kwargs):
        """A server that runs on this host."""
        others = [other for other in self.hosts if other != host]
        for other in others:
            self.control.host_disable(other)
        server = self.active(name, **kwargs)
        for other in others:
            self.control.host_enable(other)
        return server

    def script(self, method: str, function: Any) -> None:
        for agent in self.agents.values():
            agent.script[method] = function

    def migration(self, server="one"):
        return self.control.server_migration_show(server)

    def status(self, wanted, server="one"):
        def there():
            found = self.control.server_migration_list(server)
            return found[-1] if found and found[-1]["status"] == wanted else None

        return wait_until(there)

    def silence(self, host, seconds=2 * FAR):
        with self.control.store.begin() as connection:
            row = services.get(connection, host)
            services.save(connection, row["id"], {"last_seen_up": utcnow() - timedelta(0, seconds)})

    def age(self, seconds=300):
        with self.control.store.begin() as connection:
            connection.execute(tables.moves.update().values(
                sent_at=utcnow() - timedelta(0, seconds)))

    def used(self, what="memory_mb_used"):
        return tuple(self.control.host_show(host)[what] for host in self.hosts)

    def messages(self, host, method):
        return [m for m in self.agents[host].received if m[0] == method]
