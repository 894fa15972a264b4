"""attach_interface: a guest gets one more NIC, while it runs or is off (attach_interface)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.admission import Admission
from compute.steps.interfaces import NicIn, OnePort, Shown
from compute.steps.record import Event, Fault, Finish


class AttachInterface(Operation):
    """Until ``record`` everything can be undone, unless the guest does not let go of the NIC."""

    verb = "attach_interface"
    event = "compute_attach_interface"
    steps = (
        Admission(),  # the guest is still here, and nothing else was asked of it
        Event(),      # the tenant sees that it began
        OnePort(),    # an address; its network present on this host
        NicIn(),      # in the definition, and in the running guest
        Shown(),      # among the guest's addresses
        Finish(),     # the tenant sees that it ended
    )
    final = "record"
    conclusion = (Fault(), Finish())
    silent = OVERTAKEN

    def check(self, request: Mapping[str, Any]) -> None:
        args = request["args"]
        wire.instance_of(args)
        for name in ("network_id", "port_id", "requested_ip", "tag"):
            if not isinstance(args.get(name), str | None):
                raise wire.malformed(f"Argument '{name}' has to be text or null.")
        if not args.get("network_id") and not args.get("port_id"):
            raise wire.malformed("Either 'network_id' or 'port_id' has to be given.")
