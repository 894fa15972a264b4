"""Simulated worlds in which everything goes wrong, one for each seed.

MAGNETAR_SEEDS=n runs n of them, MAGNETAR_SEED=s only that one.
"""

from __future__ import annotations

import logging
import os
import pathlib
import random
import shutil
import tempfile
import uuid

import fixtures
import testtools
from testtools.content import Content
from testtools.content_type import UTF8_TEXT

from tests.crash.share import runs_here
from tests.simulation.faults import THEMES, Faults
from tests.simulation.simulation import HOSTS, Simulation
from tests.simulation.watch import Violation

SEEDS = int(os.environ.get("MAGNETAR_SEEDS", "75"))
ONLY = os.environ.get("MAGNETAR_SEED")
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Simulated(testtools.TestCase):
    """Runs simulations, each the same whenever its seed is the same."""

    def setUp(self) -> None:
        super().setUp()
        logging.disable(logging.CRITICAL)  # a simulation has its own log
        self.addCleanup(logging.disable, logging.NOTSET)

    def simulation(self, seed: int) -> Simulation:
        """One that has not run yet."""
        root = pathlib.Path(tempfile.mkdtemp(prefix="magnetar-sim-", dir=MEMORY))
        self.addCleanup(shutil.rmtree, root, ignore_errors=True)
        ids = random.Random(f"ids {seed}")
        self.useFixture(fixtures.MonkeyPatch(
            "uuid.uuid4", lambda: uuid.UUID(int=ids.getrandbits(128), version=4)))
        return Simulation(seed, root)


class Seeds(Simulated):
    """One method for each seed; they are added below."""

    def check(self, seed: int) -> None:
        sim = self.simulation(seed)
        again = f"Reproduce: MAGNETAR_SEED={seed} python -m testtools.run {__name__}"
        self.addDetail("events", Content(
            UTF8_TEXT, lambda: ["\n".join([*sim.lines, again]).encode()]))
        try:
            sim.run()
        except Violation as broken:
            self.fail(f"{broken}\n{again}")


def _add(seed: int) -> None:
    def test(self) -> None:
        self.check(seed)

    test.__name__ = f"test_seed_{seed}"
    setattr(Seeds, test.__name__, test)


for _seed in [int(ONLY)] if ONLY else range(1, SEEDS + 1):
    if ONLY or runs_here(f"seed {_seed}"):
        _add(_seed)


class Determinism(Simulated):
    """A seed is only worth something if it shows the same again."""

    def test_a_seed_shows_the_same_again(self):
        for seed in (7, 19):
            logs = []
            for _ in range(2):
                sim = self.simulation(seed)
                sim.run()
                logs.append(sim.lines)
            self.assertEqual(*logs)
            self.assertGreater(len(logs[0]), 50)

    def test_every_theme_is_met(self):
        met = {Faults(random.Random(seed), HOSTS).theme for seed in range(1, 151)}
        self.assertEqual(set(THEMES), met)
