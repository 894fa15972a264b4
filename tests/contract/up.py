"""Keep the contract environment running, for looking around: up.py [nova|magnetar]."""

import signal
import sys
import threading

from tests.contract import environment


def main() -> None:
    """Start everything, print where it is, and stop it all on SIGINT or SIGTERM."""
    agent = sys.argv[1] if len(sys.argv) > 1 else "magnetar"
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    signal.signal(signal.SIGINT, lambda *_: told.set())
    with environment.Environment() as env:
        start = env.start_nova_compute if agent == "nova" else env.start_agent
        start("lab-host")
        node = env.do("wait_service", host="lab-host", seconds=60)
        print(f"Logs and configuration: {env.home}\nBroker: {env.broker.url}\n"
              f"Database socket: {env.database.socket}\nHost lab-host is up: {node}\n"
              "Ctrl-C takes everything away again.", flush=True)
        while not told.wait(1.0):
            pass


if __name__ == "__main__":
    main()
