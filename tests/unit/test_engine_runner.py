"""One journalled effect at a time: forward, back, and what each kind of error leads to."""

from __future__ import annotations

from sqlalchemy.exc import OperationalError

from compute.engine.run import Signals
from compute.engine.step import Probe
from compute.errors import Aborted, Failed, NeedsOperator, Refused, Retryable, Unknown
from db.journal import rows
from tests.unit.engine_support import GUEST, EngineTest, Verb


class ForwardTest(EngineTest):
    def test_steps_are_done_in_order_and_written_down(self):
        row = self.run_it(Verb("act", [self.step("one"), self.step("two")]))
        self.assertEqual(["do one", "do two"], self.said)
        self.assertEqual((rows.DONE, False, None, 2, 2),
                         (row.state, row.active, row.lock, row.steps_done, row.steps_total))
        steps = self.journal.steps(row.id)
        self.assertEqual([("one", {"was": "one"}, {"made": "one"}),
                          ("two", {"was": "two"}, {"made": "two"})],
                         [(s.name, s.undo, s.outcome) for s in steps])
        self.assertEqual({f"{GUEST}/one", f"{GUEST}/two"},
                         {c.key for c in self.journal.claims(guest=GUEST)})

    def test_undo_data_and_claims_are_written_before_the_effect(self):
        seen = []
        one = self.step("one")
        one.during = lambda run: seen.append(
            (self.journal.steps(run.row.id)[0].undo, len(self.journal.claims(guest=GUEST)),
             self.journal.get(run.row.id).step))
        self.run_it(Verb("act", [one]))
        self.assertEqual([({"was": "one"}, 1, "one")], seen)

    def test_later_steps_see_what_earlier_ones_returned(self):
        seen = []
        two = self.step("two")
        two.during = lambda run: seen.append(run.outcome("one"))
        operation = Verb("act", [self.step("one"), two])
        runner = self.runner(operation)
        while not self.said:
            runner.advance()
        again = self.runner(operation, self.journal.find()[0])  # as after a restart
        again.to_end()
        self.assertEqual([{"made": "one"}], seen)

    def test_a_refusal_while_claiming_leaves_no_step(self):
        one = self.step("one")
        one.claims = lambda run: (_ for _ in ()).throw(Refused("No room.", code="no_room"))
        row = self.run_it(Verb("act", [one]))
        self.assertEqual((rows.UNDONE, "no_room"), (row.state, row.error["code"]))
        self.assertEqual(([], [], []), (self.said, self.journal.steps(row.id),
                                        self.journal.claims()))


class AfterACrashTest(EngineTest):
    """An intent without a record: probe first."""

    def crashed(self, *steps):
        """An operation whose first step was intended, and then the process ended."""
        operation = Verb("act", list(steps))
        row = self.row()
        self.journal.update(row.id, state=rows.RUNNING)
        self.journal.intend(row.id, rows.FORWARD, 0, steps[0].name, {"was": steps[0].name})
        return operation, row

    def test_what_has_not_happened_is_done(self):
        operation, row = self.crashed(self.step("one"))
        self.assertEqual(rows.DONE, self.run_it(operation, row).state)
        self.assertEqual(["probe one", "do one"], self.said)

    def test_what_has_happened_is_only_settled_and_written_down(self):
        one = self.step("one", settle=[None])
        one.answer = Probe.YES
        operation, row = self.crashed(one)
        self.assertEqual(rows.DONE, self.run_it(operation, row).state)
        self.assertEqual(["probe one", "settle one"], self.said)

    def test_what_cannot_be_told_waits(self):
        one = self.step("one")
        one.answer = Probe.UNKNOWN
        operation, row = self.crashed(one)
        runner = self.runner(operation, row)
        for _ in range(5):
            self.assertGreater(runner.advance(), 0)
        self.assertEqual({"probe one"}, set(self.said))
        self.assertEqual((rows.RUNNING, 5), (self.journal.get(row.id).state,
                                             self.journal.get(row.id).attempts))
        one.answer = Probe.YES
        runner.to_end()
        self.assertEqual(rows.DONE, self.journal.get(row.id).state)

    def test_a_probe_that_fails_to_look_waits_too(self):
        one = self.step("one")
        one.answer = Unknown("The hypervisor does not answer.")
        operation, row = self.crashed(one)
        runner = self.runner(operation, row)
        self.assertGreater(runner.advance(), 0)
        self.assertEqual(rows.RUNNING, self.journal.get(row.id).state)


class TroubleTest(EngineTest):
    def three(self, **script):
        return [self.step("one"), self.step("two"), self.step("three", **script)]

    def test_a_retryable_is_tried_again_with_growing_pauses(self):
        row = self.run_it(Verb("act", self.three(do=[Retryable("Not now."), Retryable("Not now."),
                                                     None])))
        self.assertEqual(rows.DONE, row.state)
        self.assertEqual(3, self.said.count("do three"))
        self.assertEqual([0.2, 0.4], self.clock.waited)

    def test_a_retryable_without_end_is_undone_newest_first(self):
        row = self.run_it(Verb("act", self.three(do=[Retryable("Not now.", code="disk_full")])))
        self.assertEqual((rows.UNDONE, "disk_full"), (row.state, row.error["code"]))
        self.assertEqual(5, self.said.count("do three"))
        self.assertEqual(["undo three", "undo two", "undo one"], self.said[-3:])

    def test_failed_and_refused_are_undone_at_once(self):
        for kind in (Failed, Refused):
            self.said.clear()
            row = self.run_it(Verb("act", self.three(do=[kind("No.", code="no")])),
                              self.row(request_id=kind.__name__))
            self.assertEqual(rows.UNDONE, row.state)
            self.assertEqual(["do one", "do two", "do three",
                              "undo three", "undo two", "undo one"],
                             [s for s in self.said if not s.startswith("probe")])
            self.assertEqual("No.", row.error["what"])
            self.assertTrue(row.error["now"] and row.error["next"])

    def test_unknown_is_asked_again_and_never_undone(self):
        row = self.run_it(Verb("act", self.three(do=[Unknown("Who knows.")] * 20 + [None])))
        self.assertEqual(rows.DONE, row.state)
        self.assertNotIn("undo three", self.said)
        self.assertEqual(30.0, max(self.clock.waited))

    def test_unknown_for_too_long_asks_for_an_operator(self):
        self.world.conf.timeouts.operator = 600
        row = self.run_it(Verb("act", self.three(do=[Unknown("Who knows.")])))
        self.assertEqual(rows.NEEDS_OPERATOR, row.state)
        self.assertEqual("Who knows.", row.error["what"])
        self.assertIn(f"magnetar op resolve {row.id} --as retry", row.error["next"])
        self.assertNotIn("undo three", self.said)
        self.assertTrue(row.lock)

    def test_needs_operator_rests_where_it_is(self):
        row = self.run_it(Verb("act", self.three(do=[NeedsOperator(
            "A person has to look.", now="It rests.", next="virsh list", code="look")])))
        self.assertEqual((rows.NEEDS_OPERATOR, "look", "virsh list"),
                         (row.state, row.error["code"], row.error["next"]))
        self.assertEqual("do three", self.said[-1])

    def test_an_error_of_no_kind_is_an_internal_one_and_undone(self):
        row = self.run_it(Verb("act", self.three(do=[ZeroDivisionError("by zero")])))
        self.assertEqual((rows.UNDONE, "internal"), (row.state, row.error["code"]))
        self.assertIn("ZeroDivisionError: by zero", row.error["what"])
        self.assertIn("Traceback", self.log.output)

    def test_past_the_point_of_no_return_everything_is_tried_again(self):
        errors = [Failed("No."), Refused("No."), ZeroDivisionError("x"), Retryable("No.")] * 3
        row = self.run_it(Verb("act", self.three(do=[*errors, None]), final="three"))
        self.assertEqual(rows.DONE, row.state)
        self.assertEqual([], [s for s in self.said if s.startswith("undo")])

    def test_settling_is_part_of_the_step(self):
        row = self.run_it(Verb("act", self.three(settle=[Failed("It did not settle.")])))
        self.assertEqual(rows.UNDONE, row.state)
        self.assertIn("undo three", self.said)

    def test_a_deadline_undoes(self):
        operation = Verb("act", self.three(do=[Retryable("Not now.")]), limit=0.5)
        operation.steps[2].attempts = 1000
        row, _ = self.journal.accept("act", GUEST, "req", {"args": {}, "context": {}},
                                     deadline=self.clock.now() + 0.5)
        row = self.run_it(operation, row)
        self.assertEqual((rows.UNDONE, "deadline"), (row.state, row.error["code"]))
        self.assertIn("undo one", self.said)

    def test_without_a_journal_nothing_is_concluded(self):
        error = OperationalError("UPDATE", {}, Exception("database or disk is full"))
        operation = Verb("act", self.three(do=[error]))
        runner = self.runner(operation)
        self.assertRaises(OperationalError, runner.to_end)
        self.assertEqual(rows.RUNNING, self.journal.find()[0].state)
        self.assertEqual([], [s for s in self.said if s.startswith("undo")])


class UndoTest(EngineTest):
    def operation(self, undo, conclusion=()):
        return Verb("act", [self.step("one"), self.step("two", undo=undo),
                            self.step("three", do=[Failed("No.", code="no")])],
                    conclusion=conclusion)

    def test_an_undo_that_cannot_be_had_now_is_tried_again(self):
        row = self.run_it(self.operation([Unknown("Who knows."), Retryable("Not now."), None]))
        self.assertEqual(rows.UNDONE, row.state)
        self.assertEqual(3, self.said.count("undo two"))
        self.assertEqual({rows.STEP_UNDONE}, set(self.states(row).values()))

    def test_an_undo_that_fails_is_written_down_and_asks_for_an_operator(self):
        tell = self.step("tell")
        operation = self.operation([Failed("It is stuck.", code="stuck"), None], (tell,))
        row = self.run_it(operation)
        self.assertEqual((rows.NEEDS_OPERATOR, "stuck"), (row.state, row.error["code"]))
        self.assertEqual({"forward:one": rows.STEP_DONE, "forward:two": rows.UNDO_FAILED,
                          "forward:three": rows.STEP_UNDONE}, self.states(row))
        self.assertEqual("It is stuck.", self.journal.steps(row.id)[1].error["what"])
        self.assertNotIn("do tell", self.said)
        self.assertEqual("no", row.error["cause"]["code"])
        # an operator mended it: what is told then is the first error, not the undo's
        self.journal.reopen(row.id)
        self.journal.update(row.id, state=rows.UNDOING, attempts=0)
        row = self.run_it(operation, row)
        self.assertEqual((rows.UNDONE, "no"), (row.state, row.error["code"]))
        self.assertEqual(["undo two", "undo one", "do tell"], self.said[-3:])

    def test_an_internal_error_of_an_undo_counts_as_failed(self):
        row = self.run_it(self.operation([KeyError("x")]))
        self.assertEqual((rows.NEEDS_OPERATOR, "internal"), (row.state, row.error["code"]))

    def test_undo_goes_on_after_a_crash_where_it_was(self):
        operation = self.operation([None])
        runner = self.runner(operation)
        while "undo two" not in self.said:
            runner.advance()
        self.said.clear()
        row = self.run_it(operation, self.journal.find()[0])
        self.assertEqual(rows.UNDONE, row.state)
        self.assertEqual(["undo one"], self.said)

    def test_the_conclusion_is_tried_until_it_is_told(self):
        tell = self.step("tell", do=[Unknown("No answer."), Retryable("Later."),
                                     Refused("Not you."), None])
        row = self.run_it(self.operation([None], (tell,)))
        self.assertEqual(rows.UNDONE, row.state)
        self.assertEqual(4, self.said.count("do tell"))

    def test_a_conclusion_that_cannot_be_told_asks_for_an_operator(self):
        self.world.conf.timeouts.operator = 600
        tell = self.step("tell", do=[Unknown("No answer.")])
        row = self.run_it(self.operation([None], (tell,)))
        self.assertEqual(rows.NEEDS_OPERATOR, row.state)
        self.assertEqual("no", row.error["cause"]["code"])


class SignalTest(EngineTest):
    def test_an_abort_is_seen_at_the_next_border(self):
        signals = Signals()
        one = self.step("one")
        one.during = lambda run: setattr(signals, "abort", "an operator stopped it")
        row = self.run_it(Verb("act", [one, self.step("two")]), signals=signals)
        self.assertEqual((rows.UNDONE, "aborted"), (row.state, row.error["code"]))
        self.assertEqual(["do one", "undo one"], self.said)

    def test_an_abort_comes_too_late_after_the_point_of_no_return(self):
        signals = Signals()
        one = self.step("one")
        one.during = lambda run: setattr(signals, "abort", "an operator stopped it")
        row = self.run_it(Verb("act", [one, self.step("two")], final="one"), signals=signals)
        self.assertEqual(rows.DONE, row.state)

    def test_an_abort_ends_a_wait(self):
        signals = Signals()
        one = self.step("one")

        def wait(run):
            signals.abort = "an operator stopped it"
            run.wait(lambda: False, 1000)

        one.during = wait
        row = self.run_it(Verb("act", [one]), signals=signals)
        self.assertEqual((rows.UNDONE, "aborted"), (row.state, row.error["code"]))

    def test_parked_it_rests_and_goes_on_later(self):
        signals = Signals()
        one = self.step("one")
        one.during = lambda run: setattr(signals, "parked", True)
        operation = Verb("act", [one, self.step("two")])
        row = self.run_it(operation, signals=signals)
        self.assertEqual((rows.RUNNING, None, 1), (row.state, row.error, row.steps_done))
        self.assertEqual(rows.DONE, self.run_it(operation, row).state)
        self.assertEqual(["do one", "do two"], self.said)

    def test_a_wait_has_an_end(self):
        found = []
        one = self.step("one")
        one.during = lambda run: found.append(run.wait(lambda: False, 10))
        before = self.clock.now()
        self.run_it(Verb("act", [one]))
        self.assertEqual([False], found)
        self.assertAlmostEqual(10, self.clock.now() - before, places=3)

    def test_what_must_be_seen_and_is_not_stays_unknown(self):
        one = self.step("one")
        one.during = lambda run: run.must(lambda: False, 10, "The guest running")
        runner = self.runner(Verb("act", [one]))
        runner.advance()
        self.assertGreater(runner.advance(), 0)
        [row] = self.journal.find()
        self.assertEqual(rows.RUNNING, row.state)
        self.assertIn("The guest running was not seen within 10 s", row.message)
        self.assertIsInstance(Aborted("x"), Failed)
