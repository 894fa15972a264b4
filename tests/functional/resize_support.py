"""A guest that is resized or moved cold between fake hosts, as the conductor and the API ask."""

from __future__ import annotations

import itertools
import json
import uuid as uuids
from typing import Any

from compute.engine import crashpoints
from compute.model import states
from compute.recovery.invariants import check
from compute.recovery.observe import observe
from compute.recovery.resizes import Resizes
from compute.rpc.primitives import data
from db.journal import rows
from tests import fakes
from tests.functional.live_support import CONTEXT, Agent, LiveTest
from tests.waiting import wait_until

LARGE = {"id": 2, "name": "large", "flavorid": "2", "vcpus": 2, "memory_mb": 128, "root_gb": 2}
ROOM = {"vcpus": 1, "memory_mb": 64, "disk_gb": 1}
LARGE_ROOM = {"vcpus": 2, "memory_mb": 128, "disk_gb": 2}
_ids = itertools.count(100)


def context() -> dict[str, Any]:
    """A request of its own."""
    return {**CONTEXT, "request_id": f"req-{uuids.uuid4()}"}


class ResizeTest(LiveTest):
    """Two hosts, and what conductor and API do for a resize."""

    # -- as conductor and API -----------------------------------------------------------------
    def ask(self, uuid: str, dest: Agent | None = None, flavor: dict | None = None,
            host_list: list | None = None, **args: Any) -> int:
        """What the conductor does; returns the migration's id."""
        dest = dest or self.two
        size = fakes.flavor(**(LARGE if flavor is None else flavor))
        fields = self.conductor.fields(uuid)
        same = data(size)["id"] == data(fields["flavor"])["id"]
        prim = self.conductor.set(uuid, task_state=states.RESIZE_PREP)
        migration = fakes.migration(
            uuid, fields["host"], None, dest_node=None, id=next(_ids), status="pre-migrating",
            migration_type="migration" if same else "resize",
            old_instance_type_id=data(fields["flavor"])["id"],
            new_instance_type_id=data(size)["id"])
        self.conductor.add_migration(migration)
        retry = {"num_attempts": 1, "hosts": [[dest.name, dest.name]]}
        self.say(dest, "prep_resize", **{
            "image": {"id": fakes.IMAGE_ID, "disk_format": "raw", "size": 4096, "properties": {}},
            "instance": prim, "flavor": size, "request_spec": None,
            "filter_properties": {"retry": retry}, "node": dest.name, "clean_shutdown": True,
            "migration": migration, "host_list": host_list or [], **args})
        return data(migration)["id"]

    def say(self, agent: Agent, method: str, **args: Any) -> None:
        """Cast to an agent, as the broker would deliver it."""
        agent.world.peers.cast(context(), agent.name, method, **args)

    def moving(self, id: int) -> dict[str, Any]:
        return self.conductor.read()["migrations"][str(id)]

    def confirm(self, uuid: str, id: int, source: Agent | None = None) -> None:
        self.conductor.save(None, self.moving(id), {"status": "confirming"})
        self.say(source or self.one, "confirm_resize", migration=self.moving(id),
                 instance=self.conductor.instance(None, uuid))

    def revert(self, uuid: str, id: int, dest: Agent | None = None) -> None:
        self.conductor.save(None, self.moving(id), {"status": "reverting"})
        prim = self.conductor.set(uuid, task_state=states.RESIZE_REVERTING)
        self.say(dest or self.two, "revert_resize", migration=self.moving(id), instance=prim,
                 request_spec=None)

    # -- waiting ------------------------------------------------------------------------------
    def resized(self, uuid: str, **kwargs: Any) -> int:
        """A guest that is resized; returns its migration's id."""
        id = self.ask(uuid, **kwargs)
        self.until(uuid, states.RESIZED)
        return id

    def until(self, uuid: str, vm_state: str) -> dict[str, Any]:
        """Wait until a guest is so, without a task, and all agents rest."""
        def there() -> bool:
            fields = self.conductor.fields(uuid)
            return fields["vm_state"] == vm_state and fields["task_state"] is None
        self.wait(there)
        return self.settled(uuid)

    # -- looking ------------------------------------------------------------------------------
    def claims(self, agent: Agent, uuid: str) -> dict[str, Any]:
        return {claim.kind: claim.data for claim in agent.world.journal.claims(guest=uuid)}

    def power(self, agent: Agent, uuid: str) -> int | None:
        found = agent.world.driver.state(uuid)
        return found.power_state if found else None

    def status(self, id: int) -> str:
        return self.conductor.migration_fields(id)["status"]

    def events(self, uuid: str) -> list[tuple[str, str]]:
        """Events that ended, with their results, since the build."""
        return [(name.removeprefix("compute_"), result)
                for guest, name, result in self.conductor.read()["events"]
                if guest == uuid and result != "start"][1:]

    def faults(self, uuid: str) -> list[str]:
        return [text for guest, text in self.conductor.read()["faults"] if guest == uuid]

    def sizes(self, uuid: str) -> tuple[int, int, int]:
        fields = self.conductor.fields(uuid)
        flavor = data(fields["flavor"])
        return flavor["vcpus"], flavor["memory_mb"], flavor["root_gb"]

    def root_gb(self, agent: Agent, uuid: str) -> int:
        """Size of the guest's root disk on a host, in GiB."""
        [root] = [disk for disk in agent.world.driver.disks(uuid) if disk.role == "root"]
        return root.size >> 30

    def assert_operations(self, agent: Agent, uuid: str, *wanted: str) -> None:
        """Which operations there were since the build, and that each was done."""
        found = agent.operations(uuid)
        self.assertEqual(["spawn", *wanted] if agent is self.one else list(wanted),
                         [row.verb for row in found])
        self.assertEqual({rows.DONE}, {row.state for row in found} or {rows.DONE})

    def assert_forgotten(self, uuid: str) -> None:
        """The record has nothing of a move any more."""
        fields = self.conductor.fields(uuid)
        for name in ("old_flavor", "new_flavor", "migration_context"):
            self.assertIsNone(fields.get(name), name)
        self.assertNotIn("old_vm_state", fields["system_metadata"])

    def violations(self, reverted: bool = False) -> list[str]:
        """What no guest may meet; one that was reverted has lost what it wrote since."""
        return [text for text in self.hosts.fabric.violations()
                if not (reverted and "its disk went back" in text)]

    def assert_sound(self, reverted: bool = False) -> None:
        """No host is in disorder, and no guest lost anything that it wrote."""
        self.assertEqual([], self.violations(reverted))
        for agent in self.hosts.agents.values():
            found = [f for f in check(observe(agent.world, CONTEXT))]
            self.assertEqual([], found, agent.name)

    def pass_of(self, agent: Agent) -> None:
        """One pass of reconciliation, in which messages count as lost at once."""
        agent.reconciler.lost_after = 0
        agent.reconciler.run_pass()
        Resizes(agent.manager, CONTEXT, lost_after=0).run_pass()


class Death(BaseException):
    """An agent's process ends here."""


class PartialFailureTest(ResizeTest):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(crashpoints.arm, None)

    def kill_at(self, point: str) -> None:
        """The agent that reaches this crash point dies there, once."""
        self.reached = False

        def hook(name: str) -> None:
            if name == point and not self.reached:
                self.reached = True
                raise Death(point)

        crashpoints.arm(hook)

    def dies(self, agent: Agent) -> None:
        """Wait until it is dead; nothing of it goes on."""
        wait_until(lambda: self.reached)
        wait_until(lambda: not agent.manager.running())
        agent.stop()

    def killed(self, agent: Agent, point: str, guest: str, **kwargs) -> int:
        """A resize in which an agent dies at a point, and starts again."""
        self.kill_at(point)
        id = self.ask(guest, **kwargs)
        self.dies(agent)
        self.again(agent)
        return id

    def again(self, agent: Agent) -> None:
        """The next process of an agent."""
        agent.start()
        self.conductor = self.hosts.conductor

    def loses(self, method: str, times: int = 1) -> None:
        """The broker loses a message."""
        left = [times]

        def lost(host: str, name: str) -> bool:
            if name == method and left[0] > 0:
                left[0] -= 1
                return True
            return False

        self.hosts.exchange.loses = lost

    def fails(self, agent: Agent, method: str, error: Exception, times: int = 1,
              when: str = "before") -> None:
        """A method of an agent's hypervisor fails a number of times."""
        left = [times]

        def hook(name: str, moment: str) -> None:
            if (name, moment) == (method, when) and left[0] > 0:
                left[0] -= 1
                raise error

        agent.world.driver.hook = hook

    def assert_arrived(self, guest: str, id: int) -> None:
        """It is resized on the second host, as if nothing had been, and can be confirmed."""
        self.until(guest, states.RESIZED)
        self.assertEqual(("host2", "finished"),
                         (self.conductor.fields(guest)["host"], self.status(id)))
        self.assertEqual(states.RUNNING, self.power(self.two, guest))
        self.assertIsNone(self.power(self.one, guest))
        self.assertEqual(LARGE_ROOM, self.claims(self.two, guest)["resources"])
        self.assertEqual({"aside", "resources-move"}, set(self.claims(self.one, guest)))
        self.assert_sound()
        self.confirm(guest, id)
        self.until(guest, states.ACTIVE)
        self.assertEqual({}, self.claims(self.one, guest))
        self.assert_sound()

    def assert_stayed(self, guest: str, id: int, status: str = "error",
                      reverted: bool = False) -> None:
        """It runs on the first host as before; nothing is left on the second."""
        fields = self.until(guest, states.ACTIVE)
        self.assertEqual(("host1", "host1", status),
                         (fields["host"], fields["node"], self.status(id)))
        self.assertEqual((1, 64, 1), self.sizes(guest))
        self.assertEqual(1, self.root_gb(self.one, guest))
        self.assertEqual(states.RUNNING, self.power(self.one, guest))
        self.assertFalse(self.one.world.driver.aside_disks(guest))
        self.assertEqual(ROOM, self.claims(self.one, guest)["resources"])
        self.assertEqual({"resources", "disks", "domain", "ports"},
                         set(self.claims(self.one, guest)))
        self.pass_of(self.two)
        self.two.at_rest()
        self.assertEqual({}, self.claims(self.two, guest))
        self.assertIsNone(self.power(self.two, guest))
        self.assertNotIn(guest, self.two.world.driver.guest_dirs())
        self.assert_forgotten(guest)
        self.assert_sound(reverted)


def disk_info(row: Any) -> dict[str, Any]:
    """What a destination was told of the disks."""
    return json.loads(row.request["args"]["disk_info"])
