"""Proof that the simulation can fail: with a safeguard taken out, some seed breaks a promise.

Which seed it is changes with the product, so those of the theme that fits are tried in turn. Each
mutation is put into a forked child only.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from dataclasses import replace

from compute.migration import truth
from compute.migration.truth import Act, End
from compute.model import states
from compute.recovery import decide
from compute.recovery.reconcile import Reconciler
from compute.steps.admission import Admission
from compute.steps.live_ends import Switched
from compute.steps.live_source import Strategy
from compute.steps.resize import Leave
from db.journal import Journal
from tests.crash.matrix import child
from tests.fakes import FakeConductor
from tests.simulation.faults import Faults
from tests.simulation.simulation import HOSTS
from tests.simulation.test_seeds import Simulated
from tests.simulation.watch import Violation

SEEDS = range(1, 1000)
TRIES = 80
NOTICED = 9  # the child's exit status


def no_memory_and_no_admission() -> None:
    """A repeated or late message is carried out as if it were new."""
    accept, numbers = Journal.accept, itertools.count()

    def anew(self, verb, guest, request_id, request, **more):
        return accept(self, verb, guest, f"{request_id}-{next(numbers)}", request, **more)

    def admit(self, run):
        run.instance = run.world.conductor.instance(run.context, run.row.guest)

    Journal.accept, Admission.do = anew, admit


def old_facts_are_believed() -> None:
    """What was seen before an operation ended is acted on."""
    Reconciler._went_on = lambda self, facts: False


def no_compare_and_swap() -> None:
    """States are saved whatever the record says."""
    save = FakeConductor.save
    FakeConductor.save = lambda self, context, prim, changes, **expected: save(
        self, context, prim, changes)


def the_truth_table_waits_for_nothing() -> None:
    """What cannot be observed of a migration counts as not there."""
    judge = truth.judge

    def rash(source, target, taken=False):
        seen = [End.ABSENT if end is End.UNKNOWN else end for end in (source, target)]
        found = judge(*seen, taken)
        rash_acts = {Act.WAIT: Act.UNDONE, Act.CONTINUE: Act.UNDONE, Act.OPERATOR: Act.UNDONE}
        return replace(found, act=rash_acts.get(found.act, found.act))

    truth.judge = rash


def former_disks_go_at_once() -> None:
    """A source deletes the disks that it set aside before the destination has proven the guest."""
    leave = Leave.do

    def do(self, run):
        found = leave(self, run)
        run.world.driver.delete_aside_disks(run.row.guest)
        return found

    Leave.do = do


def copies_go_before_the_switch() -> None:
    """A source deletes its disks when a live migration begins to be told as done."""
    Switched.do = lambda self, run: run.world.driver.delete_disks(run.row.guest)


def generations_are_ignored() -> None:
    """A guest that comes keeps the generation that it had."""
    prepare = Strategy.do

    def do(self, run):
        found = prepare(self, run)
        found["plan"]["generation"] = 1
        return found

    Strategy.do = do


def nothing_gives_way_to_an_evacuation() -> None:
    """A host that comes back goes on with what it did."""
    decide._taken, decide._heard = lambda facts: False, lambda facts: True
    states.EVACUATING = ()


class SimulationMutations(Simulated):
    def assertNoticed(self, theme: str, mutate: Callable[[], None]) -> None:
        """Some seed of a theme breaks a promise when the product is mutated."""
        seeds = [seed for seed in SEEDS
                 if Faults(random.Random(seed), HOSTS).theme == theme][:TRIES]

        def work() -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            mutate()
            for seed in seeds:
                try:
                    self.simulation(seed).run()
                except Violation:
                    os._exit(NOTICED)

        self.assertEqual(NOTICED, os.waitstatus_to_exitcode(child(work)),
                         f"{TRIES} seeds of theme {theme} did not notice: {mutate.__doc__}")

    def test_no_memory_and_no_admission(self):
        self.assertNoticed("stale casts", no_memory_and_no_admission)

    def test_old_facts_are_believed(self):
        self.assertNoticed("passes", old_facts_are_believed)

    def test_the_truth_table_waits_for_nothing(self):
        self.assertNoticed("lossy moves", the_truth_table_waits_for_nothing)

    def test_former_disks_go_at_once(self):
        self.assertNoticed("lossy moves", former_disks_go_at_once)

    def test_copies_go_before_the_switch(self):
        self.assertNoticed("live", copies_go_before_the_switch)

    def test_generations_are_ignored(self):
        self.assertNoticed("live", generations_are_ignored)

    def test_nothing_gives_way_to_an_evacuation(self):
        self.assertNoticed("hosts are lost", nothing_gives_way_to_an_evacuation)

    def test_no_compare_and_swap(self):
        self.assertNoticed("twice", no_compare_and_swap)
