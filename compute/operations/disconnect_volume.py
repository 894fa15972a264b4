"""disconnect_volume: this host gives up its connection to a volume of a guest that is not here
(remove_volume_connection)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.engine.operation import OVERTAKEN, Operation
from compute.model import wire
from compute.steps.volumes import ConnectionGone


class DisconnectVolume(Operation):
    """Of a guest that runs here nothing is taken away."""

    verb = "disconnect_volume"
    steps = (
        ConnectionGone(),  # not connected here any more; if asked for, no attachment
    )
    final = "connection"
    silent = OVERTAKEN

    def check(self, request: Mapping[str, Any]) -> None:
        wire.instance_of(request["args"])
        if not isinstance(request["args"].get("volume_id"), str):
            raise wire.malformed("Argument 'volume_id' has to be a volume's id.")
