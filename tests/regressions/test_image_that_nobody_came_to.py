"""A snapshot, backup or shelving that was told to stop before its first step left its image queued
for ever: what removes it is that step's undo."""

import pathlib

import fixtures
import testtools

from compute.engine.run import Run, Signals
from compute.engine.runner import Runner
from compute.manager import split_secrets
from compute.operations import OPERATIONS
from db.journal import rows
from tests import fakes
from tests.crash.matrix import CONTEXT, GUEST, MEMORY, SNAPSHOT_ID, prepare


class ImageThatNobodyCameToTest(testtools.TestCase):
    def test_it_is_removed(self):
        for verb in ("snapshot", "backup", "shelve"):
            root = pathlib.Path(self.useFixture(fixtures.TempDir(rootdir=MEMORY)).path)
            args = prepare(root, verb)
            world = fakes.world(root)
            self.addCleanup(world.journal.engine.dispose)
            self.assertEqual("queued", world.images.status(CONTEXT, SNAPSHOT_ID))
            public, _ = split_secrets(args, CONTEXT)
            row, _ = world.journal.accept(verb, GUEST, "req-1", public)
            world.journal.update(row.id, abort="not wanted any more")
            row, signals = world.journal.row(row.id), Signals()
            signals.abort = row.abort
            Runner(Run(world, OPERATIONS[verb], row, signals)).to_end()
            self.assertEqual(rows.UNDONE, world.journal.row(row.id).state)
            self.assertIsNone(world.images.status(CONTEXT, SNAPSHOT_ID), verb)
            self.assertIsNone(world.conductor.fields(GUEST)["task_state"])
