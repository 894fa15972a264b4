"""The agent in a guest as libvirt reaches it, and what it counts of a guest."""

import time

import libvirt
import testtools

from compute.errors import Failed, Refused, Retryable, Unknown
from tests.unit.test_libvirt_errors import made
from virt.libvirt import agent, diagnostics
from virt.libvirt.agent import GuestAgent
from virt.libvirt.call import Calls

UUID = "aaaaaaaa-0000-4000-8000-000000000001"
XML = """<domain type='qemu'><devices><interface type='bridge'><mac address='52:54:00:00:00:01'/>
<target dev='tap1'/></interface><interface type='bridge'><mac address='x'/></interface></devices>
</domain>"""
STATS = {
    "state.state": libvirt.VIR_DOMAIN_RUNNING, "balloon.current": 65536, "balloon.maximum": 131072,
    "balloon.rss": 4096, "vcpu.current": 1, "vcpu.maximum": 2, "vcpu.0.state": 1, "vcpu.0.time": 5,
    "block.count": 1, "block.0.name": "vda", "block.0.rd.reqs": 1, "block.0.rd.bytes": 512,
    "block.0.wr.reqs": 2, "block.0.wr.bytes": 1024, "net.count": 1, "net.0.name": "tap1",
    "net.0.rx.bytes": 10, "net.0.rx.pkts": 11, "net.0.tx.bytes": 20, "net.0.tx.drop": 23,
}  # fmt: skip


class Domain:
    """What libvirt would be asked for; ``fails`` is what it answers instead."""

    def __init__(self, fails=None):
        self.fails, self.asked = fails, []

    def agentSetResponseTimeout(self, seconds):  # noqa: N802 - libvirt's name
        self.asked.append(seconds)

    def setUserPassword(self, user, password):  # noqa: N802 - libvirt's name
        self._do(user, password)

    def fsFreeze(self):  # noqa: N802 - libvirt's name
        self._do("freeze")

    def fsThaw(self):  # noqa: N802 - libvirt's name
        self._do("thaw")

    def _do(self, *what):
        self.asked.append(what)
        if self.fails:
            raise self.fails

    def XMLDesc(self):  # noqa: N802 - libvirt's name
        return XML


class Connection:
    """A connection with one domain."""

    def __init__(self, stats=None):
        self._calls, self._stats = Calls(1), stats

    def call(self, name, act, timeout=None):
        return self._calls.run(name, act, timeout=timeout)

    def ask(self, name, function, domains, wanted, flags):
        return [(domains[0], self._stats)]


class Domains:
    def __init__(self, domain):
        self._domain = domain

    def required(self, uuid):
        return self._domain


class AgentTest(testtools.TestCase):
    def agent(self, fails=None):
        self.domain = Domain(fails)
        return GuestAgent(Connection(), Domains(self.domain))

    def test_it_is_given_time_and_asked(self):
        self.agent().set_password(UUID, "root", "word")
        self.assertEqual([agent.ANSWER_SECONDS, ("root", "word")], self.domain.asked)
        self.agent().freeze(UUID)
        self.assertEqual([agent.FREEZE_SECONDS, ("freeze",)], self.domain.asked)
        self.agent().thaw(UUID)
        self.assertEqual([agent.FREEZE_SECONDS, ("thaw",)], self.domain.asked)

    def test_what_nobody_answers(self):
        for code, words, kind, found in (
            (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "QEMU guest agent is not connected", Failed,
             "agent_missing"),
            (libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, "QEMU guest agent is not configured", Failed,
             "agent_missing"),
            (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "didn't respond to synchronization", Retryable,
             "agent_unresponsive"),
            (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "is not available due to an error", Retryable,
             "agent_unresponsive"),
            (libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running", Refused, "invalid_state"),
        ):  # fmt: skip
            for ask in (lambda inside: inside.freeze(UUID), lambda inside: inside.thaw(UUID),
                        lambda inside: inside.set_password(UUID, "root", "word")):
                raised = self.assertRaises(kind, ask, self.agent(made(code, message=words)))
                self.assertEqual(found, raised.code)
                self.assertTrue(raised.now and raised.next)

    def test_a_password_that_the_guest_refuses(self):
        inside = self.agent(made(libvirt.VIR_ERR_INTERNAL_ERROR,
                                 message="child process has failed"))
        raised = self.assertRaises(Failed, inside.set_password, UUID, "nobody", "sesame")
        self.assertEqual("password_refused", raised.code)
        self.assertIn("nobody", str(raised))
        self.assertNotIn("sesame", str(raised))

    def test_a_libvirt_that_hangs_is_unknown(self):
        self.patch(agent, "FREEZE_SECONDS", 0)
        self.patch(agent, "MARGIN", 0.05)
        inside = self.agent()
        self.domain.fsFreeze = lambda: time.sleep(0.5)
        raised = self.assertRaises(Unknown, inside.freeze, UUID)
        self.assertEqual("libvirt_timeout", raised.code)


class DiagnosticsTest(testtools.TestCase):
    def read(self, **more):
        return diagnostics.read(Connection({**STATS, **more}), Domains(Domain()), UUID)

    def test_everything_is_in_its_place(self):
        found = self.read()
        self.assertEqual(("qemu", (5,), 131072, 65536, {"rss": 4096}), (
            found.virt_type, found.cpus, found.memory_max, found.memory_now, found.memory))
        [disk], [nic] = found.disks, found.nics
        self.assertEqual(("vda", 1, 512, 2, 1024, 0), (
            disk.name, disk.reads, disk.read_bytes, disk.writes, disk.write_bytes, disk.errors))
        self.assertEqual(("tap1", "52:54:00:00:00:01", (10, 11, 0, 0), (20, 0, 0, 23)),
                         (nic.name, nic.mac, nic.rx, nic.tx))

    def test_a_guest_that_does_not_run(self):
        for state, word in ((libvirt.VIR_DOMAIN_SHUTOFF, "shut down"),
                            (libvirt.VIR_DOMAIN_PAUSED, "paused")):
            raised = self.assertRaises(Refused, self.read, **{"state.state": state})
            self.assertEqual("not_running", raised.code)
            self.assertIn(word, str(raised))
