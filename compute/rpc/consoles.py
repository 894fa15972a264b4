"""Handlers of the compute RPC methods by which Nova's proxies reach guests' screens."""

from __future__ import annotations

import urllib.parse
from typing import Any

from compute.engine.world import World
from compute.errors import Refused
from compute.model import states, wire

NOVNC = "novnc"


class ConsoleHandlers:
    """Mixin of :class:`compute.rpc.server.Handlers`."""

    world: World

    def get_vnc_console(self, context, args) -> dict[str, Any]:
        """Where a guest's screen is, and a token for it; the proxy finds both by the token."""
        kind, guest = args["console_type"], wire.instance_of(args)["uuid"]
        if kind != NOVNC:
            raise Refused(f"There is no console of type {kind!r}.", now="No token was given.",
                          next=f"The only one over VNC is {NOVNC}.", code="console_type_unknown")
        port = self._screen(guest)
        if port is None:
            raise Refused(
                f"The screen of guest {guest} is on no address that a proxy could reach.",
                now="No token was given.",
                next="Set [libvirt] vnc_listen on the host, and reboot the guest hard; or use its "
                     "serial console, 'magnetar console attach'.",
                code="console_unavailable")
        conf = self.world.conf
        host, base = conf.vnc.server_proxyclient_address, conf.vnc.novncproxy_base_url
        token = self.world.conductor.authorize_console(context, {
            "console_type": kind, "host": host, "port": port, "internal_access_path": None,
            "instance_uuid": guest, "access_url_base": base}, conf.consoleauth.token_ttl)
        query = urllib.parse.urlencode({"path": f"?token={token}"})
        return {"token": token, "access_url": f"{base}?{query}", "host": host, "port": port,
                "internal_access_path": None}

    def validate_console_port(self, context, args) -> bool:
        """Whether a guest's console still is where a token says: asked by a proxy before it lets
        somebody in."""
        if args["console_type"] != NOVNC:
            return False
        try:
            port = self._screen(wire.instance_of(args)["uuid"])
        except Refused:
            return False
        return port is not None and str(port) == str(args["port"])

    def _screen(self, guest: str) -> int | None:
        """The port of a guest's screen. Raises Refused when it does not run here."""
        found = self.world.driver.state(guest)
        if found is None or found.power_state not in (states.RUNNING, states.POWER_PAUSED):
            raise Refused(f"Guest {guest} does not run here, so it has no console.",
                          now="No token was given.", next="Start it first.",
                          code="console_not_ready")
        return self.world.driver.screen_port(guest)
