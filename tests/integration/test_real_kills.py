"""The agent killed by SIGKILL at each step of spawn and of delete, on real libvirt and QEMU.

Everything has to converge by itself: the guest runs (or is gone), nothing of it is left
without an owner, and the guest's own counter goes on.
"""

from __future__ import annotations

import re

import libvirt
import testtools

from compute import concurrency
from compute.operations import OPERATIONS
from tests.integration import libvirtd
from tests.integration.agent import RealAgent
from tests.modes import THREADING

MOMENTS = ("after_intent", "after_effect", "after_record")


def kill_points(verb: str) -> list[str]:
    """One kill for each step: the moments take turns, so that each is met several times, and the
    steps with an effect on the hypervisor meet the sharpest one."""
    sharp = {"disks", "domain", "power", "off", "ports"}
    return [f"{verb}.{step.name}.{'after_effect' if step.name in sharp else MOMENTS[n % 3]}"
            for n, step in enumerate(OPERATIONS[verb].steps)]


class RealKills(testtools.TestCase):
    def setUp(self):
        super().setUp()
        reason = libvirtd.missing()
        if reason:
            self.skipTest(reason)
        self.daemon = self.useFixture(libvirtd.PrivateLibvirtd())
        self.agent = self.useFixture(RealAgent(self.daemon.uri))
        self.agent.start()
        self.agent.load_image()
        self.agent.terminate()

    def clean(self) -> bool:
        report = self.agent.call("audit")
        return report["clean"] and not self.agent.call("op.list")

    def active(self, name: str) -> bool:
        shown = self.agent.call("server.show", server=name)
        return shown["vm_state"] == "active" and shown["task_state"] is None and self.clean()

    def gone(self, name: str) -> bool:
        return name not in [s["name"] for s in self.agent.call("server.list")] and self.clean()

    def test_spawn_and_delete_killed_at_each_step(self):
        seconds = []
        deletes = kill_points("delete")
        for number, point in enumerate(kill_points("spawn")):
            if (number % 3 == 0) != (concurrency.mode() == THREADING):
                continue  # the modes share them, for their time
            name = f"guest{number}"
            self.agent.start(kill_at=point)
            self.agent.ask_and_die("server.create", name=name, image="tiny", flavor="tiny",
                                   networks="none", config_drive=True)
            self.agent.start()
            seconds.append(self.agent.until(lambda name=name: self.active(name),
                                            f"{name} active after {point}"))
            self.agent.terminate()
            delete_at = deletes[number % len(deletes)]
            self.agent.start(kill_at=delete_at)
            self.agent.ask_and_die("server.delete", server=name)
            self.agent.start()
            seconds.append(self.agent.until(lambda name=name: self.gone(name),
                                            f"{name} gone after {delete_at}"))
            self.agent.terminate()
        self.addDetail("seconds", testtools.content.text_content(str(seconds)))
        self.assertEqual([], self.left_behind())

    def left_behind(self) -> list[str]:
        """Guests' directories, and domains, that should all be gone."""
        connection = libvirt.open(self.daemon.uri)
        try:
            domains = [d.name() for d in connection.listAllDomains()]
        finally:
            connection.close()
        directories = [p.name for p in (self.agent.state / "instances").iterdir()
                       if re.fullmatch(r"[0-9a-f-]{36}", p.name)]
        return domains + directories
