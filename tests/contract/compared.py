"""Tests that compare what our agents left after a scenario's steps with the recorded reference."""

import collections.abc
import typing

import testtools

from tests.contract import environment, record, rows, scenario


class ComparedTest(testtools.TestCase):
    """One run of a scenario; each test of a subclass reads the result of its step.

    `different` says where our agent differs from Nova's own on purpose: (step, table) -> why. That
    table is not compared; what our agent leaves in it has a test of its own.
    """

    different: typing.ClassVar[dict[tuple[str, str], str]] = {}
    results: typing.ClassVar[dict[str, scenario.Result]] = {}
    log: typing.ClassVar[str] = ""

    @classmethod
    def run_scenario(
            cls, run: collections.abc.Callable[[environment.Environment], scenario.Scenario],
    ) -> None:
        """Run a scenario once, for all tests of the class; skip them where it cannot run."""
        reason = environment.missing()
        if reason:
            raise cls.skipException(reason)
        with environment.Environment() as env:
            cls.results = run(env).results
            cls.log = env.tails(60)

    def result(self, step: str) -> scenario.Result:
        """What a step left."""
        result = self.results[step]
        if "skipped" in result:
            self.skipTest(result["skipped"])
        if "failed" in result:
            self.fail(f"{step}: {result['failed']}\nThe agents' logs end:\n{self.log}")
        return result

    def check(self, step: str) -> None:
        """Fail with every way in which a step left something else than Nova's own agent."""
        found, wanted = self.result(step), record.load(step)
        self.assertEqual(wanted.get("error"), found.get("error"), f"{step}: the error differs")
        same = {table: wanted_rows for table, wanted_rows in wanted.get("rows", {}).items()
                if (step, table) not in self.different}
        problems = rows.differences(same, found.get("rows", {}))
        if problems:
            self.fail(f"{step}: not the rows of Nova's own agent:\n" + "\n".join(problems))

    def row(self, step: str, table: str) -> dict[str, typing.Any]:
        """The newest row of a table."""
        return self.result(step)["rows"][table][-1]

    def events(self, step: str) -> dict[str, str]:
        """The new action events and their results."""
        return {row["event"]: row["result"]
                for row in self.result(step)["rows"]["instance_actions_events"]}
