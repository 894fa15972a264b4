"""Domains over libvirt's in-process test driver: many of them, quickly."""

import uuid

import fixtures
import libvirt
import testtools

from compute import errors
from compute.model import states
from tests.waiting import wait_until
from virt.libvirt.call import Calls
from virt.libvirt.connection import CONNECTED, Connection, start_event_loop
from virt.libvirt.domains import Domains
from virt.libvirt.states import POWER, REASONS, power_state, reason

XML = """<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory>
<metadata>{metadata}</metadata><os><type>hvm</type></os></domain>"""
OURS = "<m:instance xmlns:m='https://magnetar.dev/xmlns/1' generation='{}' operation='op'/>"


class TestDriverCase(testtools.TestCase):
    """Each test has a node of its own, made from a file."""

    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        start_event_loop()
        self.calls = Calls()
        self.events = []
        self.connection = Connection("test:///default", self.calls, retry=0.05)
        self.connection.start(self.hear)
        self.addCleanup(self.calls.close)
        self.addCleanup(self.connection.stop)
        self.domains = Domains(self.connection, 10)
        self.addCleanup(self.clear)

    def hear(self, number, what):
        self.events.append((number, what))

    def wait_for(self, event):
        wait_until(lambda: event in self.events, lambda: self.events)

    def handle(self):
        return self.connection.ask("own", lambda handle: handle)

    def clear(self):
        for domain in self.handle().listAllDomains():
            if domain.name() != "test":
                if domain.isActive():
                    domain.destroy()
                domain.undefine()

    def add(self, metadata=""):
        number = str(uuid.uuid4())
        xml = XML.format(name="d-" + number, uuid=number, metadata=metadata)
        self.handle().defineXML(xml)
        return number

    def cost(self, call, *args):
        before = self.calls.total()
        result = call(*args)
        return self.calls.total() - before, result


class TestStates(TestDriverCase):
    def test_a_pass_costs_three_calls_with_1_20_and_1000_guests(self):
        for count in (1, 19, 980):
            for _ in range(count):
                self.add(OURS.format(1))
            self.domains.states()
            self.assertEqual(3, self.cost(self.domains.states)[0])
        cost, found = self.cost(self.domains.states)
        self.assertEqual((3, 1001), (cost, len(found)))
        self.assertEqual(1000, sum(state.ours for state in found.values()))

    def test_after_a_reconnect_few_more_calls_are_made_at_once(self):
        numbers = [self.add(OURS.format(5)) for _ in range(30)]
        self.domains.states()
        self.domains.ownership.doubt_all()
        costs = []
        for _ in range(5):
            cost, found = self.cost(self.domains.states)
            costs.append(cost)
            self.assertEqual({5}, {found[number].generation for number in numbers})
        self.assertEqual([13, 13, 13, 4, 3], costs)  # the node has a domain of its own

    def test_what_is_ours_is_told_from_what_is_not(self):
        ours, foreign = self.add(OURS.format(4)), self.add("<x:a xmlns:x='http://x'/>")
        found = self.domains.states()
        self.assertEqual((True, 4, "op"), (
            found[ours].ours, found[ours].generation, found[ours].operation))
        self.assertEqual((False, 0, ""), (
            found[foreign].ours, found[foreign].generation, found[foreign].operation))

    def test_one_domain_and_all_domains_agree(self):
        number = self.add(OURS.format(2))
        self.assertEqual(self.domains.states()[number], self.domains.state(number))
        self.assertIsNone(self.domains.state(str(uuid.uuid4())))

    def test_metadata_that_cannot_be_read_proves_nothing(self):
        number = self.add(OURS.format("many"))
        self.assertFalse(self.domains.states()[number].ours)

    def test_every_state_has_a_number_and_every_reason_a_word(self):
        for name, number in vars(libvirt).items():
            if name in ("VIR_DOMAIN_RUNNING", "VIR_DOMAIN_PAUSED", "VIR_DOMAIN_SHUTOFF"):
                self.assertIn(number, POWER)
        self.assertEqual(states.NOSTATE, power_state(999))
        self.assertEqual("unknown", reason(1, 999))
        self.assertEqual("crashed", reason(5, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED))
        self.assertGreater(len(REASONS), 30)


class TestActing(TestDriverCase):
    def test_on_and_off_are_quiet_when_repeated(self):
        number, prepared = self.add(OURS.format(1)), []
        for _ in range(2):
            self.domains.power_on(number, lambda: prepared.append(1))
        self.assertEqual(states.RUNNING, self.domains.state(number).power_state)
        self.wait_for((number, "started"))
        for _ in range(2):
            self.domains.power_off(number)
        self.assertEqual(states.SHUTDOWN, self.domains.state(number).power_state)
        self.wait_for((number, "stopped"))
        self.domains.power_off(str(uuid.uuid4()))

    def test_nothing_is_prepared_for_what_is_not_ours(self):
        number, prepared = self.add(), []
        self.assertRaises(errors.Refused, self.domains.power_on, number, lambda: prepared.append(1))
        self.assertEqual([], prepared)


class TestConnection(TestDriverCase):
    def test_the_first_event_says_that_it_is_connected(self):
        self.assertEqual(("", CONNECTED), self.events[0])
        self.assertTrue(self.connection.alive())
        self.assertEqual(1, self.connection.epoch)

    def test_a_broken_listener_does_not_end_the_events(self):
        def broken(number, what):
            self.hear(number, what)
            raise ValueError("a bug of the listener")

        self.connection._on_event = broken
        first, second = self.add(), self.add()
        self.wait_for((first, "defined"))
        self.wait_for((second, "defined"))
        self.assertIn("a bug of the listener", self.log.output)

    def test_without_connection_everything_is_unknown(self):
        other = Connection("test:///default", self.calls)
        error = self.assertRaises(errors.Unknown, other.ask, "list_domains", lambda handle: 1)
        self.assertEqual("libvirt_lost", error.code)
        self.assertIn("list domains", error.what)
        self.assertFalse(other.alive())
        other.stop()

    def test_a_lost_connection_is_opened_again(self):
        self.connection._session._on_close(None, libvirt.VIR_CONNECT_CLOSE_REASON_EOF, None)
        wait_until(lambda: self.connection.epoch == 2)
        number = self.add()
        self.wait_for((number, "defined"))

    def test_a_call_on_an_old_handle_does_not_end_the_new_connection(self):
        def lose(handle):
            error = libvirt.libvirtError("gone")
            error.err = (libvirt.VIR_ERR_RPC, libvirt.VIR_FROM_RPC, "gone", 2, "", "", "", 0, 0)
            raise error

        self.assertRaises(errors.Unknown, self.connection.ask, "list_domains", lose)
        number = self.add()
        self.wait_for((number, "defined"))
        self.assertEqual(1, self.connection.epoch)

    def test_an_old_loss_does_not_end_a_new_connection(self):
        session = self.connection._session
        self.connection._words.put(("closed", object(), ""))
        number = self.add()
        self.wait_for((number, "defined"))
        self.assertIs(session, self.connection._session)
