"""A rebuild that failed gave the guest its former definition back without its place: it ran on
without its pins and cells, on CPUs of other guests."""

import fixtures
import testtools

from compute.errors import Failed
from compute.model import states
from compute.rpc.primitives import data
from db.journal import rows
from tests import fakes
from tests.crash.matrix import CONTEXT, PREPARED, run_now


class PlaceTest(testtools.TestCase):
    def test_it_has_its_place_again(self):
        world = fakes.world(self.useFixture(fixtures.TempDir()).path)
        self.addCleanup(world.journal.engine.dispose)
        world.conf.compute.cpu_dedicated_set = "1-3,5-7"
        prim = fakes.instance(flavor=fakes.flavor(
            vcpus=2, extra_specs={"hw:cpu_policy": "dedicated"}))
        uuid = data(prim)["uuid"]
        world.conductor.add(prim)
        run_now(world, "spawn", fakes.build_args(prim))
        before = world.driver._need(uuid)["place"]
        self.assertTrue(before)

        def broken(method, when):
            if (method, when) == ("power_on", "before"):
                world.driver.hook = lambda method, when: None
                raise Failed("It is broken.", code="broken")

        world.driver.hook = broken
        prim = world.conductor.set(uuid, task_state=states.REBUILDING)
        run_now(world, "rebuild", {"instance": prim, **PREPARED["rebuild"][2]},
                {**CONTEXT, "request_id": "req-2"})
        [row] = world.journal.find(guest=uuid)[1:]
        self.assertEqual((rows.UNDONE, "broken"), (row.state, row.error["code"]))
        self.assertEqual(before, world.driver._need(uuid)["place"])
