"""What a stock agent asked a stock conductor while servers slept and were resized, asked ours."""

from compute.rpc.primitives import data
from compute.rpc.serializer import Context
from db.control import instances, records
from tests.contract import wire as captures
from tests.functional import test_control_conductor as conductor


class MoveReplayTest(conductor.ConductorTest):
    """The answers have the same form; which rows there were follows from the messages."""

    ask_as = conductor.ReplayTest.ask_as
    same_updates = conductor.ReplayTest.same_updates
    same_form = conductor.ReplayTest.same_form
    rows = conductor.ReplayTest.restore

    def test_unpause(self):
        self.replay("unpause", "unpause_instance")

    def test_suspend(self):
        self.replay("suspend", "suspend_instance")

    def test_resume(self):
        self.replay("resume", "resume_instance")

    def test_resize(self):
        self.replay("resize", "prep_resize")

    def test_confirm(self):
        self.replay("confirm_resize", "confirm_resize")

    def test_revert(self):
        self.replay("revert_resize", "revert_resize")

    def replay(self, name, method):
        if name not in captures.names():
            self.skipTest(f"tests/contract/fixtures/wire has no {name}.json")
        capture = captures.load(name)
        cast = capture.cast(method)
        context = Context.from_dict(cast.context)
        self.rows(cast.args, context, capture)
        mine = data(cast.args["instance"])["uuid"]
        self.move(cast.args, capture, mine)
        for message in capture.calls():
            if not message.what.startswith(("ComputeNode", "Service.save")) \
                    and not self.other(message, mine):
                self.ask_as(message, context)

    def move(self, args, capture, uuid):
        """The migration's row, and what the instance knew of it."""
        if "migration" not in args:
            return
        values = {k: v for k, v in data(args["migration"]).items() if k not in conductor.TIMES}
        known = capture.calls(what="MigrationContext.get_by_instance_uuid")
        with self.control.store.begin() as connection:
            records.create_migration(connection, values)
            if known:
                instances.save(connection, uuid, {"migration_context": known[0].result})

    def other(self, message, uuid):
        """Calls about another server that were captured meanwhile."""
        if message.what != "Instance.get_by_uuid":
            return False
        asked = [*message.args["args"], message.args["kwargs"].get("uuid")]
        return uuid not in asked
