"""'host show' knew of no machine type: none was ever told to the control plane. And where libvirtd
had not examined QEMU yet when the agent began, its empty answer was kept for the connection's life.
"""

from __future__ import annotations

import dataclasses

import fixtures
import testtools
from oslo_config import cfg

from compute import conf as configuration
from compute.resources.tracker import Tracker
from control.scheduler import filters, hosts
from tests import fakes
from tests.golden.test_domains import CAPABILITIES
from tests.unit.test_control_scheduler import NODE, NOW, SERVICE
from virt.libvirt.host import Host

SLOW = "<capabilities><host><uuid>u</uuid><cpu><arch>x86_64</arch></cpu></host></capabilities>"


class Libvirtd:
    """A connection to one that has examined QEMU by the second question."""

    epoch = 1

    def __init__(self, whole: str):
        self.answers = [SLOW, whole]

    def ask(self, name: str, func: object) -> str:
        return self.answers.pop(0)


class MachineTypesTest(testtools.TestCase):
    def test_an_answer_without_any_is_not_kept(self):
        libvirtd = Libvirtd(CAPABILITIES)
        host = Host(libvirtd)
        self.assertEqual({}, host.caps().support)
        self.assertIn("pc-q35-7.2", host.caps().native().machines)
        self.assertIn("pc-q35-7.2", host.caps().native().machines)
        self.assertEqual([], libvirtd.answers)

    def test_the_control_plane_learns_them(self):
        world = fakes.world(self.useFixture(fixtures.TempDir()).path)
        self.addCleanup(world.journal.engine.dispose)
        facts = dataclasses.replace(world.driver.host_facts(), machine_types=("pc", "q35"))
        world.driver.host_facts = lambda: facts
        tracker = Tracker(world.conf, fakes.HOST, world.journal, world.driver, world.conductor)
        configuration.register(cfg.CONF)
        stats = tracker.fields()["stats"]
        host = hosts.build(SERVICE, {**NODE, "stats": stats}, {}, cfg.CONF, NOW)
        self.assertEqual({"pc", "q35"}, host.machine_types)
        wanted = filters.Request(1, 1, 1, properties={"hw_machine_type": "virt"})
        self.assertIn("machine type virt", filters.image_properties(host, wanted))
