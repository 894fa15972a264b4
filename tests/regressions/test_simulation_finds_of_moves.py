"""Bugs in moves between hosts that the simulation found, shown on two hosts on virtual time."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from collections.abc import Callable

import testtools

from compute.engine import crashpoints
from compute.errors import Failed
from compute.model import states
from db.journal import rows
from tests import fakes
from tests.crash import ways
from tests.crash.hosts import GUEST, HOSTS, Hosts

DELETING = {"task_state": states.DELETING}


class Sent:
    """Hosts to which prep_resize is sent with other fields of the guest, or arguments."""

    def __init__(self, hosts: Hosts, arguments: dict | None = None, **fields):
        self.hosts, self.arguments, self.fields = hosts, arguments or {}, fields

    def __getattr__(self, name: str):
        return getattr(self.hosts, name)

    def cast(self, host: str, method: str, **args) -> None:
        args["instance"] = ways.instance(self.hosts, **self.fields)
        self.hosts.cast(host, method, **{**args, **self.arguments})


class SimulationFindsOfMoves(testtools.TestCase):
    def hosts(self, shared: bool = False) -> Hosts:
        """Two hosts, and a guest that runs on the first."""
        root = pathlib.Path(tempfile.mkdtemp(prefix="magnetar-find-"))
        self.addCleanup(shutil.rmtree, root, ignore_errors=True)
        self.addCleanup(crashpoints.arm, None)
        made = Hosts(root, shared)
        for host in HOSTS:
            made.start(host)
        made.hub.step()
        made.hub.step()
        ways.spawn(made)
        made.converge()
        return made

    def at(self, point: str, do: Callable[[], None]) -> None:
        """Do something when a crash point is reached, once."""
        reached = []

        def hook(name: str) -> None:
            if name == point and not reached:
                reached.append(name)
                do()

        crashpoints.arm(hook)

    def until(self, hosts: Hosts, done: Callable[[], bool], seconds: float = 300) -> None:
        """Let time pass until something is so."""
        end = hosts.hub.clock.time + seconds
        while not done():
            self.assertLess(hosts.hub.clock.time, end, "it does not come about")
            hosts.hub.step()

    def lose(self, hosts: Hosts, host: str, seconds: float) -> None:
        """A host loses its power, its guests are evacuated, and it comes back later."""
        def power() -> None:
            fakes.power_cut(hosts.world(host).driver)
        hosts.hub.spawn("machine", power)
        hosts.hub.spawn("machine", lambda: ways.evacuate(hosts), 30)
        hosts.kill(host, seconds)

    def states(self, hosts: Hosts, host: str, verb: str) -> list[str]:
        return [row.state for row in hosts.agents[host].world.journal.find(guest=GUEST)
                if row.verb == verb]

    # -- a host that comes back ----------------------------------------------------------------
    def test_what_was_going_on_before_an_evacuation_gives_way(self):
        """A reboot that the loss of power cut went on when the host was back: two copies ran."""
        hosts = self.hosts(shared=True)
        self.at("reboot.power.after_intent", lambda: self.lose(hosts, "host1", 120))
        hosts.cast("host1", "reboot_instance", block_device_info=None, reboot_type="HARD",
                   instance=ways.instance(hosts, task_state=states.REBOOTING_HARD))
        hosts.converge()
        self.assertEqual([], hosts.problems(ways.EVACUATED))
        self.assertEqual([rows.UNDONE], self.states(hosts, "host1", "reboot"))

    def test_nothing_goes_on_while_an_evacuation_does(self):
        """The host was back before the other one had taken the guest up."""
        hosts = self.hosts(shared=True)

        def lose() -> None:
            self.lose(hosts, "host1", 60)
            hosts.kill("host2", 100)

        self.at("reboot.power.after_intent", lose)
        hosts.cast("host1", "reboot_instance", block_device_info=None, reboot_type="HARD",
                   instance=ways.instance(hosts, task_state=states.REBOOTING_HARD))
        hosts.converge()
        self.assertEqual([], hosts.problems(ways.EVACUATED))

    # -- an evacuation in the middle of a resize -----------------------------------------------
    def test_disks_that_were_set_aside_are_not_made_anew(self):
        """Its source was lost between setting the disks aside and handing over: on storage that
        both hosts share, the guest began again with its image."""
        hosts = self.hosts(shared=True)
        self.at("resize_out.leave.before_intent", lambda: self.lose(hosts, "host1", 120))
        ways.resize(hosts)
        hosts.converge()
        self.assertEqual([], hosts.fabric.violations())
        fields = hosts.conductor.fields(GUEST)
        self.assertEqual(("host2", states.ACTIVE), (fields["host"], fields["vm_state"]))
        driver = hosts.agents["host2"].world.driver
        self.assertFalse(driver.aside_disks(GUEST))
        self.assertEqual(hosts.fabric.written(GUEST), driver.count_on_disk(GUEST))

    def test_a_lost_source_holds_no_evacuation_up(self):
        """The destination waited for the source to take the resize up, and the evacuation for the
        destination; the room for the resize was never given back."""
        hosts = self.hosts(shared=True)
        self.at("resize_prep.handover.after_intent", lambda: self.lose(hosts, "host1", 900))
        ways.resize(hosts)
        self.until(hosts, lambda: hosts.conductor.fields(GUEST)["host"] == "host2")
        journal = hosts.agents["host2"].world.journal
        self.until(hosts, lambda: {claim.kind for claim in journal.claims()} == {
            "resources", "ports", "disks", "domain", "volumes"})

    # -- a migration that nobody takes up ------------------------------------------------------
    def late(self, status: str = "") -> str:
        """How a migration ends whose message comes when its guest has no task any more."""
        hosts = self.hosts()
        ways.resize_late(hosts)
        if status:
            ways.present(hosts, status)
        hosts.converge()
        self.assertEqual(("host1", states.ACTIVE, None), tuple(
            hosts.conductor.fields(GUEST)[name] for name in ("host", "vm_state", "task_state")))
        return hosts.conductor.migration_fields(7)["status"]

    def test_a_migration_whose_message_is_stale_ends(self):
        """The end of an earlier resize was told twice, and cleared the task of the next one: its
        migration stayed pre-migrating for ever."""
        self.assertEqual("error", self.late())
        self.assertEqual("confirmed", self.late("confirmed"))  # unless others have ended it

    def test_room_for_a_move_that_ended_elsewhere_is_given_back(self):
        hosts = self.hosts()
        journal = hosts.agents["host1"].world.journal
        journal.claim("resources-move", GUEST, GUEST, "an-operation", {"way": "in"})
        hosts.hub.sleep(30)
        self.until(hosts, lambda: not journal.claims(kind="resources-move"))

    # -- a delete in the middle of a resize ----------------------------------------------------
    def test_a_delete_and_a_handover_do_not_wait_for_each_other(self):
        """The delete waited for resize_prep, resize_prep for resize_out, which was refused since
        the delete held the guest."""
        hosts = self.hosts()
        lost: list[str] = []

        def loses(host: str, method: str) -> bool:
            if method != "resize_instance" or lost:
                return False
            lost.append(method)
            hosts.cast("host1", "terminate_instance", bdms={},
                       instance=ways.instance(hosts, **DELETING))
            return True

        hosts.exchange.loses = loses
        ways.resize_here(hosts)
        self.until(hosts, lambda: bool(hosts.conductor.fields(GUEST)["deleted"]))
        self.until(hosts, lambda: not hosts.active())
        self.assertEqual([], hosts.agents["host1"].world.journal.claims())

    def test_a_delete_and_an_arrival_do_not_wait_for_each_other(self):
        """The destination waited for the task to be migrating, the source for the destination, and
        the delete for the source."""
        hosts = self.hosts()
        self.at("live_in.record.before_intent", lambda: hosts.cast(
            "host1", "terminate_instance", bdms={}, instance=ways.instance(hosts, **DELETING)))
        ways.live(hosts)
        self.until(hosts, lambda: bool(hosts.conductor.fields(GUEST)["deleted"]))
        self.until(hosts, lambda: not hosts.active() and not any(
            agent.world.journal.claims() or agent.world.driver.states()
            for agent in hosts.agents.values()))

    def test_an_evacuation_of_what_was_deleted_ends(self):
        hosts = self.hosts(shared=True)
        self.at("evacuate.record.before_intent", lambda: hosts.conductor.destroy_instance(
            {}, ways.instance(hosts)))
        self.lose(hosts, "host1", 120)
        self.until(hosts, lambda: self.states(hosts, "host2", "evacuate") == [rows.DONE])
        self.until(hosts, lambda: not hosts.agents["host2"].world.driver.states())

    # -- lost messages -------------------------------------------------------------------------
    def test_a_guest_whose_way_to_another_host_was_lost_is_free_again(self):
        """The destination had ended its migration and handed the guest back to the conductor, who
        never heard of it: the task stood for ever."""
        hosts = self.hosts()

        def fail() -> None:
            raise Failed("There is no room after all.", code="no_room")

        self.at("resize_prep.claim.after_effect", fail)
        ways.resize(Sent(hosts, {"host_list": None, "filter_properties": {
            "retry": {"num_attempts": 1, "hosts": [["host2", "host2"]]}}}))
        self.until(hosts, lambda: self.states(hosts, "host2", "resize_prep") == [rows.UNDONE])
        self.assertEqual(states.RESIZE_PREP, hosts.conductor.fields(GUEST)["task_state"])
        self.until(hosts, lambda: hosts.conductor.fields(GUEST)["task_state"] is None)

    def test_the_destination_of_a_lost_guest_gives_way_to_its_evacuation(self):
        """The destination waited for the source, back again, whose half waited for the evacuation,
        which the destination refused since it was busy."""
        hosts = self.hosts()
        hosts.fabric.set(samples=300)
        ways.live(hosts)
        self.until(hosts, lambda: (hosts.fabric.move(GUEST) or {}).get("phase") == "precopy")
        driver = hosts.world("host1").driver
        driver.abort_job(GUEST)
        fakes.power_cut(driver)
        hosts.kill("host1", 20)
        ways.instance(hosts, task_state=states.REBUILDING)
        self.until(hosts, lambda: self.states(hosts, "host2", "live_in") == [rows.UNDONE])
        self.until(hosts, lambda: "host1" in hosts.agents)
        [waits] = self.states(hosts, "host1", "live_out")
        self.assertNotIn(waits, rows.ENDED)

    # -- records -------------------------------------------------------------------------------
    def test_the_next_migration_is_not_completed_with_the_last(self):
        """The destination of a live migration marked the guest's newest migration."""
        hosts = self.hosts()
        self.at("live_in.migration.before_intent", lambda: hosts.conductor.add_migration(
            fakes.migration(GUEST, "host2", None, id=8, status="pre-migrating",
                            migration_type="resize")))
        ways.live(hosts)
        hosts.converge()
        self.assertEqual(("completed", "pre-migrating"), tuple(
            hosts.conductor.migration_fields(id)["status"] for id in (7, 8)))

    def test_a_source_leaves_although_nobody_tells_the_former_size(self):
        """The guest was deleted meanwhile, and an agent that began anew had only the message, from
        before the control plane knew a former size."""
        hosts = self.hosts()

        def die() -> None:
            hosts.conductor.destroy_instance({}, ways.instance(hosts))
            hosts.kill("host1", 3)

        self.at("resize_out.vacate.before_intent", die)

        ways.resize(Sent(hosts, old_flavor=None))
        self.until(hosts, lambda: "host1" in hosts.agents and
                   self.states(hosts, "host1", "resize_out") == [rows.DONE])

    def test_a_migration_ends_whose_message_came_too_late(self):
        """The source had given the resize up just when the destination named itself in it: the
        migration, set back, stayed open for ever."""
        hosts = self.hosts()
        self.at("resize_prep.claim.after_intent",
                lambda: ways.instance(hosts, task_state=None))
        ways.resize(hosts)
        self.until(hosts, lambda: self.states(hosts, "host2", "resize_prep") == [rows.UNDONE])
        self.assertEqual("error", hosts.status())
