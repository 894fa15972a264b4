"""Nova sends start, stop, reboot and terminate without the flavor; they were refused."""

import fixtures
import testtools

from compute.model import states
from compute.model.wire import NO_FLAVOR, guest
from compute.rpc.primitives import data
from db.journal import rows
from tests import fakes
from tests.contract import wire
from tests.crash.matrix import CONTEXT, run_now

VERBS = (
    ("stop", states.POWERING_OFF, {"clean_shutdown": True}, states.STOPPED),
    ("start", states.POWERING_ON, {}, states.ACTIVE),
    ("reboot", states.REBOOTING, {"reboot_type": "SOFT", "block_device_info": None}, states.ACTIVE),
    ("delete", states.DELETING, {"bdms": None}, states.DELETED),
)


class WithoutFlavorTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.world = fakes.world(self.useFixture(fixtures.TempDir()).path)
        self.addCleanup(self.world.journal.engine.dispose)

    def test_each_verb(self):
        prim = fakes.instance()
        uuid = data(prim)["uuid"]
        self.world.conductor.add(prim)
        run_now(self.world, "spawn", fakes.build_args(prim), {**CONTEXT, "request_id": "req-0"})
        for verb, task, args, vm_state in VERBS:
            sent = self.world.conductor.set(uuid, task_state=task)
            del sent["nova_object.data"]["flavor"]
            run_now(self.world, verb, {"instance": sent, **args},
                    {**CONTEXT, "request_id": f"req-{verb}"})
            row = self.world.journal.find(guest=uuid)[-1]
            self.assertEqual((verb, rows.DONE, None), (row.verb, row.state, row.error))
            self.assertEqual(vm_state, self.world.conductor.fields(uuid)["vm_state"])

    def test_novas_own_messages_have_none(self):
        for name, method in (("stop", "stop_instance"), ("start", "start_instance")):
            prim = wire.load(name).cast(method).args["instance"]
            self.assertNotIn("flavor", data(prim))
            self.assertEqual(NO_FLAVOR, guest(prim).flavor)
