"""Every verb of a tenant on one real guest, one after another; and all of it again with a libvirtd
that is killed before each."""

from __future__ import annotations

import pathlib

import libvirt

from tests.integration import test_real_guest
from tests.integration.test_real_guest import NAME
from tests.modes import AGENTS, EVENTLET, THREADING, once

NETWORK = "lab"
# (method of the control plane, its arguments, the guest's vm_state afterwards)
LIFE: tuple[tuple[str, dict[str, object], str], ...] = (
    ("pause", {}, "paused"), ("unpause", {}, "active"),
    ("suspend", {}, "suspended"), ("resume", {}, "active"),
    ("reboot", {"hard": False}, "active"), ("reboot", {"hard": True}, "active"),
    ("stop", {}, "stopped"), ("start", {}, "active"),
    ("image_create", {"name": "snapshot"}, "active"),
    ("backup_create", {"name": "backup", "backup_type": "daily", "rotation": 1}, "active"),
    ("add_network", {"network": NETWORK}, "active"),
    ("remove_network", {"network": NETWORK}, "active"),
    ("dump", {}, "active"),
    ("add_volume", {"volume": "first"}, "active"),
    ("swap_volume", {"old": "first", "new": "second"}, "active"),
    ("rescue", {}, "rescued"), ("unrescue", {}, "active"),
    ("rebuild", {"image": "snapshot"}, "active"),
    ("resize", {"flavor": "larger"}, "resized"), ("resize_revert", {}, "active"),
    ("resize", {"flavor": "larger"}, "resized"), ("resize_confirm", {}, "active"),
    ("shelve", {}, "shelved_offloaded"), ("unshelve", {}, "active"),
    ("remove_volume", {"volume": "second"}, "active"),
    ("delete", {}, "soft-delete"), ("restore", {}, "active"),
)


class RealLife(test_real_guest.RealGuest):
    test_life = test_libvirtd_is_absent_at_start = test_libvirtd_dies_during_a_build = None
    test_a_guest_that_stops_by_itself_is_stopped_in_the_record = None

    # No verb waits until the guest has booted far enough to hear that it is to shut down.
    MORE = "audit_interval = 5\nreport_interval = 2\nreclaim_instance_interval = 3600\n" \
           "[timeouts]\nshutdown = 1\n"

    def lives(self, before: object = lambda: None) -> None:
        """All of LIFE; ``before`` is done before each verb."""
        self.agent.start()
        self.agent.load_image()
        self.agent.call("flavor.create", name="larger", ram=224, vcpus=1, disk=1)
        self.agent.call("network.create", name=NETWORK, subnet="192.168.76.0/24", nat=True)
        for name in ("first", "second"):
            self.agent.call("volume.create", name=name, size=1)
        self.create(networks="none")
        self.settled("active")
        self.said(r"TICK \d+", 2)
        for method, args, vm_state in LIFE:
            before()
            self.agent.call(f"server.{method}", server=NAME, **args)
            self.assertEqual(vm_state, self.settled(vm_state, "error"), f"after {method}")
        self.assertTrue(self.running())
        self.said(r"TICK \d+", 2)
        self.assertEqual("running", self.agent.call("server.diagnostics", server=NAME)["state"])
        self.assertEqual([], self.agent.call("audit")["findings"])
        self.leaves()

    def leaves(self) -> None:
        """Deleted for good, nothing of it is left anywhere."""
        self.agent.call("server.delete", server=NAME, force=True)
        self.agent.until(lambda: not self.agent.call("server.list")
                         and not self.agent.call("op.list"), "deleted")
        self.agent.call("network.delete", network=NETWORK)
        self.assertEqual(["available"] * 2, [one["status"] for one
                                             in self.agent.call("volume.list")])
        connection = libvirt.open(self.daemon.uri)
        self.addCleanup(connection.close)
        self.assertEqual([], connection.listAllDomains())
        self.assertEqual([], connection.listAllNetworks())
        instances = self.agent.state / "instances"
        self.assertEqual([], [path.name for path in instances.iterdir()
                              if path.name[0] not in "._"])
        for kept in ("_deleted", "_quarantine"):
            self.assertEqual([], list((instances / kept).glob("*")), kept)
        self.assertEqual([], self.taps())
        self.assertTrue(self.agent.call("audit")["clean"])

    def taps(self) -> list[str]:
        """Names of the tap devices of the daemon's network namespace."""
        net = pathlib.Path(f"/proc/{self.daemon.daemons['libvirtd'].pid}/net/dev").read_text()
        return [line.split(":")[0].strip() for line in net.splitlines() if "tap" in line]


@once(AGENTS, THREADING)
class LifeTest(RealLife):
    def test_all_verbs(self):
        self.lives()


@once(AGENTS, EVENTLET)
class RestlessLifeTest(RealLife):
    def test_all_verbs_with_a_libvirtd_that_is_killed_before_each(self):
        self.lives(self.daemon.restart)
