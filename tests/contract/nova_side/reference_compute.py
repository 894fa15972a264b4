"""Nova's own agent with its fake driver, made to fail where the scenario wants a failure.

The fake driver can do everything; a reference for refusals needs a driver that cannot. The claim of
a server whose name starts with "no-room" fails, and pause and diagnostics are not implemented.
"""

from nova import monkey_patch

monkey_patch.patch(backend="threading")

from nova import exception  # noqa: E402
from nova.cmd import compute  # noqa: E402
from nova.compute import claims  # noqa: E402
from nova.virt import fake  # noqa: E402

_claim_test = claims.Claim._claim_test


def _fits(self, *args, **kwargs):
    if self.instance.display_name.startswith("no-room"):
        raise exception.ComputeResourcesUnavailable(reason="no room")
    return _claim_test(self, *args, **kwargs)


def _not_implemented(self, *args, **kwargs):
    raise NotImplementedError()


def main():
    """Run nova-compute."""
    claims.Claim._claim_test = _fits
    fake.FakeDriver.pause = _not_implemented
    fake.FakeDriver.get_diagnostics = _not_implemented
    compute.main()


if __name__ == "__main__":
    main()
