"""Nova's own agent with its fake driver, made to be of use as a reference.

The fake driver can do everything, and remembers little; a reference needs a driver whose guests are
what they were made. So the claim of a server whose name starts with "no-room" fails; a paused or
suspended guest is seen as such, with the power states that Nova's libvirt driver reports; and a
live migration of a server whose name starts with "held" goes on until it is aborted or forced.
A server whose name starts with "immovable" is refused by the host that it shall move to. The node
is the same after a restart.
"""

from nova import monkey_patch

monkey_patch.patch(backend="threading")

from nova import exception  # noqa: E402
from nova.cmd import compute  # noqa: E402
from nova.compute import claims, power_state  # noqa: E402
from nova.virt import fake, node  # noqa: E402

_claim_test = claims.Claim._claim_test


def _fits(self, *args, **kwargs):
    if self.instance.display_name.startswith("no-room"):
        raise exception.ComputeResourcesUnavailable(reason="no room")
    return _claim_test(self, *args, **kwargs)


class ReferenceDriver(fake.FakeLiveMigrateDriver):
    """See the module."""

    def pause(self, instance):
        """Remember that the guest is paused."""
        self.instances[instance.uuid].state = power_state.PAUSED

    def unpause(self, instance):
        """Remember that it runs."""
        self.instances[instance.uuid].state = power_state.RUNNING

    def suspend(self, context, instance):
        """Remember that it is off, its memory being on disk."""
        self.instances[instance.uuid].state = power_state.SHUTDOWN

    def resume(self, context, instance, *args, **kwargs):
        """Remember that it runs."""
        self.instances[instance.uuid].state = power_state.RUNNING

    def rescue(self, context, instance, *args, **kwargs):
        """Remember that it runs: another system."""
        self.instances[instance.uuid].state = power_state.RUNNING

    def get_available_resource(self, nodename):
        """Tell the node's lasting identity with it."""
        return {**super().get_available_resource(nodename), "uuid": node.get_local_node_uuid()}

    def get_nodenames_by_uuid(self, refresh=False):
        """Tell the node's lasting identity."""
        return {node.get_local_node_uuid(): name for name in self.get_available_nodes()}

    def post_live_migration_at_destination(self, context, instance, *args):
        """A paused guest arrives paused."""
        super().post_live_migration_at_destination(context, instance, *args)
        self.instances[instance.uuid].state = instance.power_state

    def check_can_live_migrate_destination(self, context, instance, *args):
        """Take all but those that are named so."""
        if instance.display_name.startswith("immovable"):
            raise exception.MigrationPreCheckError(reason="immovable")
        return super().check_can_live_migrate_destination(context, instance, *args)

    def live_migration(self, context, instance, dest, post_method, recover_method, *args):
        """Move at once, unless the guest is to be held."""
        if instance.display_name.startswith("held"):
            super().live_migration(context, instance, dest, post_method, recover_method, *args)
        else:
            post_method(context, instance, dest, *args)


def main():
    """Run nova-compute."""
    claims.Claim._claim_test = _fits
    fake.ReferenceDriver = ReferenceDriver  # where options look for drivers
    compute.main()


if __name__ == "__main__":
    main()
