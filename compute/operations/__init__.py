"""The table of contents of the product: one verb, one file."""

from compute.engine.operation import Operation
from compute.operations.delete import Delete
from compute.operations.reap import Reap
from compute.operations.reboot import Reboot
from compute.operations.spawn import Spawn
from compute.operations.start import Start
from compute.operations.stop import Stop
from compute.operations.unsupported import Unsupported

OPERATIONS: dict[str, Operation] = {
    operation.verb: operation
    for operation in (Spawn(), Delete(), Start(), Stop(), Reboot(), Reap(), Unsupported())
}
