"""Two builds looked for room at the same time, both before either had claimed it: both got the last
of it."""

import fixtures
import testtools

from compute.engine.run import Run, Signals
from compute.engine.runner import Runner
from compute.operations import OPERATIONS
from compute.rpc.primitives import data
from db.journal import rows
from tests import fakes


class TwoClaimsTest(testtools.TestCase):
    def test_the_first_stays(self):
        self.useFixture(fixtures.FakeLogger())
        root = self.useFixture(fixtures.TempDir()).path
        world = fakes.world(root, memory_mb=512 + 100)
        self.addCleanup(world.journal.engine.dispose)
        runners = []
        for number in range(2):
            prim = fakes.instance()
            world.conductor.add(prim)
            row, _ = world.journal.accept("spawn", data(prim)["uuid"], f"req-{number}", {
                "args": fakes.build_args(prim, network=False), "context": {}})
            runners.append(Runner(Run(world, OPERATIONS["spawn"], row, Signals())))
        check, waiting = world.inventory.check, []

        def together(guest, need, moving=False):
            check(guest, need)
            if len(waiting) == 0:  # the other one looks before this one has claimed
                waiting.append(guest)
                while not runners[1].journal.claims(guest=runners[1].run.row.guest):
                    runners[1].advance()

        world.inventory.check = together
        for runner in runners:
            runner.to_end()
        states = sorted(world.journal.get(r.run.row.id).state for r in runners)
        self.assertEqual([rows.DONE, rows.UNDONE], states)
        self.assertEqual(64, world.inventory.used()["memory_mb"])
