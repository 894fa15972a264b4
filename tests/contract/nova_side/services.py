"""Placement, as released, with an image and a network service that know nearly nothing.

Runs in Nova's virtual environment: services.py PORT DATABASE_URL IMAGE_ID CONFIG_DIR. Nova's API
layer asks for the image when it creates a server; Nova's own agent asks for ports when it deletes
one, and keeps its inventory in Placement.
"""

import json
import os
import socketserver
import sys
import wsgiref.simple_server

_EMPTY = ("ports", "extensions", "networks", "floatingips", "security-groups")


def network(environ):
    """Return the answer to a request of the Networking API: every listing is empty."""
    noun = environ["PATH_INFO"].rstrip("/").rpartition("/")[2].removesuffix(".json")
    if environ["REQUEST_METHOD"] == "GET" and noun in _EMPTY:
        return {noun.replace("-", "_"): []}
    return None


def image(environ):
    """Return the answer to a request of the Image API: it has one image of 1 MiB."""
    path = f"/v2/images/{sys.argv[3]}"
    known = {
        "id": sys.argv[3], "name": "contract", "status": "active", "visibility": "public",
        "disk_format": "raw", "container_format": "bare", "size": 1 << 20, "min_disk": 0,
        "min_ram": 0, "protected": False, "tags": [], "checksum": None, "owner": None,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        "self": path, "file": path + "/file", "schema": "/v2/schemas/image",
    }
    if environ["PATH_INFO"] == "/v2/schemas/image":
        return {"name": "image", "properties": {name: {} for name in known},
                "additionalProperties": {"type": "string"}}
    return known if environ["PATH_INFO"] == path else None


def send(start_response, answer):
    """Send a JSON answer, or 404 for None."""
    body = json.dumps(answer or {"message": "no such thing"}).encode()
    start_response("200 OK" if answer else "404 Not Found", [
        ("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def placement():
    """Return Placement's WSGI application; it brings the schema of its database up to date."""
    os.environ["OS_PLACEMENT_CONFIG_DIR"] = sys.argv[4]
    os.environ["OS_PLACEMENT_DATABASE__CONNECTION"] = sys.argv[2]
    os.environ["OS_PLACEMENT_DATABASE__SYNC_ON_STARTUP"] = "true"
    os.environ["OS_API__AUTH_STRATEGY"] = "noauth2"
    with open(os.path.join(sys.argv[4], "placement.conf"), "w", encoding="ascii"):
        from placement import wsgi
        return wsgi.init_application()


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """A WSGI server with a thread for each request."""

    daemon_threads = True


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    """A request handler that keeps requests out of the log."""

    def log_message(self, *args):
        """Write nothing."""


def main():
    """Serve /placement, /image and /network until SIGTERM."""
    inner = placement()
    small = {"image": image, "network": network}

    def application(environ, start_response):
        first, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
        environ["SCRIPT_NAME"] = f"/{first}"
        environ["PATH_INFO"] = f"/{rest}" if rest else ""
        if first == "placement":
            return inner(environ, start_response)
        return send(start_response, small[first](environ) if first in small else None)

    with wsgiref.simple_server.make_server(
            "127.0.0.1", int(sys.argv[1]), application, server_class=Server,
            handler_class=Quiet) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
