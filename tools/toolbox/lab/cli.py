"""tools/lab: the lab for people."""

import argparse
import os
import sys
import time

from tools.toolbox.lab import matrix
from tools.toolbox.lab.lab import Lab, all_labs
from tools.toolbox.lab.place import LabError

UP = """
The control plane's socket is {socket}. Try next:
  export MAGNETAR_SOCKET={socket}
  tools/magnetar host list
  tools/lab{name} exec host1 -- virsh list --all        any command, in a host
  tools/lab{name} exec host1 -- magnetar doctor         a host's own agent
  tools/lab{name} status
  tools/lab{name} down                                  take all of it away
Logs are {directory}/log/ and {directory}/host1/log/.
"""
BARE = """
Hosts with libvirt only. Try next:
  tools/lab{name} exec host1 -- virsh -c qemu+tls://host2/system uri
  tools/lab{name} down
"""


def main() -> int:
    """Run one command; 0 when it did all, 1 with a sentence when not."""
    parser = _parser()
    arguments = parser.parse_args()
    try:
        return arguments.act(arguments)
    except (LabError, OSError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/lab", description="Several hypervisor hosts on this machine."
    )
    parser.add_argument("--name", default="default", help="which lab, when there are several")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="make it, or start what does not run")
    up.add_argument("--hosts", type=int, default=2, metavar="N")
    up.add_argument("--shared", action="store_true", help="one instance directory for all hosts")
    up.add_argument("--bare", action="store_true", help="libvirt only: no agents, no control plane")
    up.set_defaults(act=_up)

    down = commands.add_parser("down", help="take it away")
    down.set_defaults(act=_down)

    execute = commands.add_parser("exec", help="run a command in a host")
    execute.add_argument("host")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND…")
    execute.set_defaults(act=_exec)

    status = commands.add_parser("status", help="what runs")
    status.set_defaults(act=_status)

    _faults(commands)
    played = commands.add_parser("kills", help="kill everything there is during live migrations")
    played.add_argument("--times", type=int, default=1, metavar="N", help="each case so often")
    played.add_argument("--only", default="", metavar="REGEX", help='such as "agent at 50"')
    played.add_argument("--again", action="store_true", help="also what was seen before")
    played.add_argument("--write", action="store_true", help="the table of docs/recovery.md")
    played.set_defaults(act=_kills)
    return parser


def _faults(commands: argparse._SubParsersAction) -> None:
    for verb, text in (("kill", "SIGKILL a daemon"), ("start", "start it again")):
        command = commands.add_parser(verb, help=text)
        command.add_argument("host", help="host1, …; or switch for broker and control")
        command.add_argument("daemon", help="agent, libvirtd, virtlogd, virtlockd, broker, control")
        command.set_defaults(act=_daemon, verb=verb)
    for verb, text in (("cut", "cut a link of a host"), ("restore", "mend it")):
        command = commands.add_parser(verb, help=text)
        command.add_argument("host")
        command.add_argument("link", choices=["management", "migration", "guests"])
        command.set_defaults(act=_link, verb=verb)
    limit = commands.add_parser("limit", help="limit a link's bandwidth")
    limit.add_argument("host")
    limit.add_argument("link", choices=["management", "migration", "guests"])
    limit.add_argument("mbit", type=float, help="megabits a second; 0 takes the limit off")
    limit.set_defaults(act=_limit)
    for verb, text in (("crash", "a host loses power"), ("boot", "it comes back")):
        command = commands.add_parser(verb, help=text)
        command.add_argument("host")
        command.set_defaults(act=_power, verb=verb)


def _up(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    lab = Lab(arguments.name)
    lab.up(arguments.hosts, arguments.shared, arguments.bare)
    _status(arguments)
    print(f"Up in {time.monotonic() - began:.1f} s.")
    name = "" if arguments.name == "default" else f" --name {arguments.name}"
    values = {"socket": lab.control.socket, "name": name, "directory": lab.place.directory}
    print((BARE if lab.bare else UP).format(**values))
    return 0


def _down(arguments: argparse.Namespace) -> int:
    Lab(arguments.name).down()
    print(f"Nothing of the lab {arguments.name} is left.")
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    command = arguments.command
    command = command[1:] if command[:1] == ["--"] else command
    if not command:
        raise LabError("no command was given: tools/lab exec HOST -- COMMAND…")
    host = Lab(arguments.name).host(arguments.host)
    words = [*host.enter(), "env", f"--chdir={os.getcwd()}", *command]
    os.execvpe(words[0], words, host.environment())


def _status(arguments: argparse.Namespace) -> int:
    lab = Lab(arguments.name)
    if not lab.hosts:
        others = ", ".join(one.place.name for one in all_labs())
        print(f"The lab {arguments.name} is not up.{' There are: ' + others if others else ''}")
        return 0
    for name, shown in lab.status().items():
        if name == "switch":
            if not lab.bare:
                print(f"  {name:<8} {_pairs(shown)}")
            continue
        host = lab.host(name)
        print(f"  {name:<8} {host.address}, migration {host.migration_address}; {_pairs(shown)}")
    return 0


def _pairs(shown: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in shown.items())


def _daemon(arguments: argparse.Namespace) -> int:
    lab = Lab(arguments.name)
    if arguments.host == "switch":
        services = [lab.broker, lab.control]
    else:
        host = lab.host(arguments.host)
        services = [*host.daemons, host.agent]
    found = [one for one in services if one.name.split()[-1] == arguments.daemon]
    if not found:
        names = ", ".join(one.name.split()[-1] for one in services)
        raise LabError(f"{arguments.host} has no {arguments.daemon!r}; it has {names}.")
    (found[0].kill if arguments.verb == "kill" else found[0].start)()
    return _status(arguments)


def _link(arguments: argparse.Namespace) -> int:
    host = Lab(arguments.name).host(arguments.host)
    (host.cut if arguments.verb == "cut" else host.restore)(arguments.link)
    return 0


def _limit(arguments: argparse.Namespace) -> int:
    host = Lab(arguments.name).host(arguments.host)
    host.limit(arguments.link, arguments.mbit or None)
    return 0


def _kills(arguments: argparse.Namespace) -> int:
    name = "kills" if arguments.name == "default" else arguments.name
    return matrix.run(name, arguments.times, arguments.only, arguments.again, arguments.write)


def _power(arguments: argparse.Namespace) -> int:
    lab = Lab(arguments.name)
    host = lab.host(arguments.host)
    if arguments.verb == "crash":
        host.crash()
        return 0
    host.boot()
    if not lab.bare:
        host.start_agent()
    return _status(arguments)
