"""detach_interface: a NIC is taken out of a guest, and its port given back (detach_interface)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.admission import Admission
from compute.steps.interfaces import Condemned, NicOut, OnePortGone, Unshown
from compute.steps.record import Event, Fault, Finish


class DetachInterface(Operation):
    """Until ``port`` a guest that does not let go of it keeps the NIC, with its address."""

    verb = "detach_interface"
    event = "compute_detach_interface"
    steps = (
        Admission(),    # the guest is still here, and nothing else was asked of it
        Event(),        # the tenant sees that it began
        Condemned(),    # which NIC it is
        NicOut(),       # out of the definition, and out of the running guest
        OnePortGone(),  # tap unplugged, address given back
        Unshown(),      # no more among the guest's addresses
        Finish(),       # the tenant sees that it ended
    )
    final = "port"
    conclusion = (Fault(), Finish())
    silent = OVERTAKEN

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
        if not isinstance(request["args"].get("port_id"), str):
            raise wire.malformed("Argument 'port_id' has to be a port's id.")
