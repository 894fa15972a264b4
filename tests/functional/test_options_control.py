"""Options of the embedded control plane, each by what another value changes."""

from __future__ import annotations

import dataclasses
import threading
import time

from oslo_config import cfg

from compute.errors import MagnetarError
from control import service
from control.scheduler import filters, weighers
from tests.functional import control_movers as movers
from tests.functional.control_movers import MovesTest
from tests.functional.control_support import ControlTest, wait_until
from tests.unit.test_control_scheduler import SMALL, SchedulerTest


class SchedulerOptionsTest(SchedulerTest):
    def set(self, name, value):
        self.conf.set_override(name, value, "control")
        self.addCleanup(self.conf.clear_override, name, "control")

    def best(self, **figures):
        """The first of two hosts: ``a``, and ``b`` with these figures."""
        quiet = {"ram_weight": 0, "cpu_weight": 0, "disk_weight": 0, "io_ops_weight": 0,
                 "build_failure_weight": 0}
        for name, value in {**quiet, **self.weights}.items():
            self.set(name, value)
        found = [dataclasses.replace(self.host(), host=name, uuid=name, failed_builds=0)
                 for name in ("a", "b")]
        found[1] = dataclasses.replace(found[1], **figures)
        return weighers.ranked(found, SMALL, self.conf)[0].host

    def test_each_weight_spreads_packs_or_is_off(self):
        for option, emptier in (
                ("ram_weight", {"memory_used": -100}), ("cpu_weight", {"vcpus_used": -1}),
                ("disk_weight", {"disk_used": -10}), ("io_ops_weight", {"busy": 2})):
            for weight, wanted in ((1.0, "b"), (-1.0, "a"), (0.0, "a")):
                self.weights = {option: weight}
                self.assertEqual(wanted, self.best(**emptier), (option, weight))

    def test_build_failure_weight(self):
        emptier = {"memory_used": -100, "failed_builds": 3}
        for weight, wanted in ((1000.0, "a"), (0.5, "b"), (0.0, "b")):
            self.weights = {"ram_weight": 1.0, "build_failure_weight": weight}
            self.assertEqual(wanted, self.best(**emptier), weight)

    def test_default_availability_zone(self):
        self.set("default_availability_zone", "west")
        asked = dataclasses.replace(SMALL, zone="west")
        self.assertIsNone(filters.zone(self.host(), asked))
        self.set("default_availability_zone", "east")
        self.assertIn("east, not west", filters.zone(self.host(), asked))
        own = self.host(service={"availability_zone": "west"})
        self.assertIsNone(filters.zone(own, asked))


class BuildOptionsTest(ControlTest):
    def override(self, name, value, group="control"):
        cfg.CONF.set_override(name, value, group)
        self.addCleanup(cfg.CONF.clear_override, name, group)

    def test_max_io_ops(self):
        self.agent().script["build_and_run_instance"] = lambda agent, context, args: None
        self.prepare()
        self.override("max_io_ops", 1)
        self.create("one")
        self.assertEqual("error", wait_until(lambda: self.ended("two"))["vm_state"])
        self.override("max_io_ops", 2)
        three = self.create("three")
        wait_until(lambda: self.control.server_show("three")["vm_state"] != "error"
                   and self.control.host_show("host1")["servers"] == 2)
        self.assertEqual("building", self.control.server_show(three["id"])["vm_state"])

    def ended(self, name):
        try:
            self.create(name)
        except MagnetarError as error:
            self.assertIn("1 servers are being built or moved there, 1 may be", error.what)
            return {"vm_state": "error"}
        return self.control.server_show(name)

    def test_resend_after(self):
        """Half of it passes between two looks at what no host has taken up."""
        self.override("resend_after", 1)
        made = service.Service(cfg.CONF, self.transport, self.images)
        self.addCleanup(made.stop)
        ages = []
        made.control.builds.resume = ages.append
        made.start()
        wait_until(lambda: len(ages) > 1, 25)  # the default's second look is after 30 seconds
        self.assertEqual([0, 1], ages[:2])

    def test_long_rpc_timeout(self):
        """It holds for checks of a live migration, [timeouts] conductor for other calls."""
        self.override("conductor", 1, "timeouts")
        self.override("long_rpc_timeout", 3)
        control = self.start_control()
        seconds = []
        for call in (control.computes.call, control.computes.call_long):
            began = time.monotonic()
            error = self.assertRaises(MagnetarError, call, {}, "nowhere", "get_host_uptime")
            seconds.append(time.monotonic() - began)
            self.assertEqual("rpc_timeout", error.code)
        self.assertGreaterEqual(seconds[1], 3)
        self.assertGreaterEqual(seconds[0], 1)


class MoveOptionsTest(MovesTest):
    def start_control(self):
        cfg.CONF.set_override("move_workers", self.workers, "control")
        self.addCleanup(cfg.CONF.clear_override, "move_workers", "control")
        return super().start_control()

    workers = 1

    def asked_at_once(self):
        """How many checks of live migrations are under way when three servers shall move."""
        for name in ("a", "b", "c"):
            self.on("host1", name)
        go, asked = threading.Event(), []

        def slow(agent, context, args):
            asked.append(args)
            go.wait(30)
            return movers.check_destination(agent, context, args)

        self.script("check_can_live_migrate_destination", slow)
        for name in ("a", "b", "c"):
            self.control.server_live_migrate(name)
        wait_until(lambda: len(asked) >= self.workers)
        time.sleep(0.5)  # one more would come meanwhile
        most = len(asked)
        go.set()
        for name in ("a", "b", "c"):
            self.status("completed", name)
        return most

    def test_move_workers(self):
        self.assertEqual(self.workers, self.asked_at_once())

    def test_max_drain_moves(self):
        for most in (1, 3):
            self.override("max_drain_moves", most)
            self.assertEqual(most, self.control.host_drain("host1")["max"])
            self.assertEqual(2, self.control.host_drain("host1", max=2)["max"])


class MoreMoveWorkersTest(MoveOptionsTest):
    workers = 2
