"""What goes wrong, and how often: each seed has its own mixture."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from compute.errors import Failed, MagnetarError, Retryable, Unknown

# kind: rates to choose from; per message for the broker's, per call for the others
MIXTURE: dict[str, tuple[float, ...]] = {
    "lose": (0, 0, 0.1, 0.3), "repeat": (0, 0.1, 0.4), "late": (0, 0.1, 0.3),
    "kill": (0, 0, 0.001, 0.004), "interleave": (0.02, 0.1, 0.2), "slow": (0, 0, 0.05, 0.2),
    "driver unreachable": (0, 0, 0.02, 0.05), "driver answer lost": (0, 0, 0.02, 0.05),
    "driver failed": (0, 0, 0.003, 0.01),
    "conductor unreachable": (0, 0, 0.02, 0.05), "conductor answer lost": (0, 0, 0.02, 0.05),
    "conductor failed": (0, 0, 0.003, 0.01),
    "networks unreachable": (0, 0, 0.05), "networks answer lost": (0, 0, 0.05),
    "peers unreachable": (0, 0, 0.02, 0.1), "peers answer lost": (0, 0, 0.02, 0.1),
    "peers failed": (0,), "networks failed": (0, 0, 0.01), "journal full": (0, 0, 0, 0.003, 0.02),
}
# event: how often it may happen in a run
EVENTS: dict[str, tuple[int, ...]] = {
    "create": (2, 3), "ask": (4, 6, 9), "delete": (0, 1, 2), "kill": (0, 0, 1, 3),
    "boot": (0, 0, 1), "virsh": (0, 0, 1, 2), "park": (0, 0, 1), "abort": (0, 0, 0, 1),
    "conductor away": (0, 0, 1), "driver away": (0, 0, 1), "move": (0, 1, 3),
    "stop a move": (0, 0, 1), "lose a host": (0, 0, 0, 1), "cut": (0, 0, 1), "trouble": (0, 0, 1),
}
BUILDING = ("driver.plug", "driver.fetch_image", "driver.create_disks", "driver.define",
            "driver.power_on", "driver.state")
HANDING_ON = ("conductor.build_instances", "conductor.build_instances", "conductor.save",
              "conductor.event_finish")
TAKING_BACK = ("driver.power_off", "driver.undefine", "driver.delete_disks",
               "networks.deallocate")
LOOKING = ("driver.states", "driver.guest_dirs", "conductor.instances")
CALLS = (*BUILDING, *HANDING_ON[1:], *("driver." + method for method in (
    "states", "guest_dirs", "disks", "undefine", "power_off", "shutdown", "delete_disks")),
    *("conductor." + method for method in (
        "instance", "instances", "deleted_among", "destroy_instance", "event_start", "fault")),
    "networks.allocate", "networks.deallocate")
# What the halves of moves say to each other, and do.
TALK = ("peers.pre_live_migration", "peers.post_live_migration_at_destination",
        "peers.check_can_live_migrate_source", "peers.resize_instance", "peers.finish_resize",
        "peers.finish_revert_resize", "peers.confirm_resize", "peers.peer_look", "peers.peer_look",
        "peers.rollback_live_migration_at_destination", "peers.peer_storage")
LIVE = tuple("driver." + method for method in (
    "outgoing", "prepare_incoming", "migrate", "job", "abort_job", "tune_job", "start_postcopy",
    "arrived", "state", "delete_disks", "undefine", "resume", "power_off"))
COLD = tuple("driver." + method for method in (
    "set_aside_disks", "bring_back_disks", "delete_aside_disks", "copy_disks", "grow_disks",
    "define", "power_on", "power_off", "shutdown", "aside_disks", "check_resize", "delete_disks"))
TELLING = ("conductor.save", "conductor.save_migration", "conductor.instance",
           "conductor.migration", "conductor.migrations", "conductor.moves_here",
           "conductor.drop_migration_context", "conductor.migrate_server", "networks.bind")
FATES = ("failed", "failed", "unreachable", "answer lost", "killed before", "killed after",
         "interleave before", "interleave after")
UNHEARD = ("answer lost", "unreachable", "killed before", "killed after", "interleave before",
           "interleave after")
HAND_OVER = ("answer lost", "unreachable", "killed before", "killed after")
SORE = 0.5  # how often it hurts at a sore spot
PAINS = 10  # how often in all


@dataclass(frozen=True)
class Theme:
    """What a seed is mostly about; what it does not say is drawn from the tables above.

    ``sore`` are calls at which things go wrong again and again: (calls, fates) to draw from.
    ``seconds`` is how long the trouble lasts.
    """

    rates: dict[str, float] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    sore: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    seconds: float = 90.0
    shared: float = 0.3  # of the seeds, how many have disks on storage that all hosts see


THEMES: dict[str, Theme] = {
    "all sorts": Theme(sore=((CALLS, FATES),)),
    "sore spots": Theme(sore=((CALLS, FATES),) * 3),
    "builds fail": Theme(events={"create": 4, "ask": 3}, sore=(
        (BUILDING, ("failed",)), (HANDING_ON, HAND_OVER), (TAKING_BACK, FATES))),
    "stale casts": Theme({"lose": 0.3, "late": 0.6, "repeat": 0.3},
                         {"create": 1, "ask": 30, "delete": 0, "boot": 0}, seconds=250),
    "twice": Theme({"repeat": 0.9, "slow": 0.2}, {"create": 4, "ask": 4}, (
        (("conductor.save",), HAND_OVER), (("networks.allocate", "driver.plug"), HAND_OVER))),
    "passes": Theme({"slow": 0.05, "kill": 0, "lose": 0, "late": 0},
                    {"virsh": 2, "create": 4, "ask": 10}, (
        (LOOKING, FATES[7:]),) * 2, seconds=150),
    "moves": Theme(events={"create": 3, "move": 12, "ask": 3}, seconds=200, sore=(
        (TALK, UNHEARD), (LIVE + COLD + TELLING, FATES))),
    "live": Theme(events={"create": 3, "move": 12, "ask": 1, "stop a move": 3, "trouble": 1},
                  seconds=200, sore=((LIVE, FATES), (TALK, UNHEARD))),
    "lossy moves": Theme({"lose": 0.4, "late": 0.3, "repeat": 0.3},
                         {"create": 2, "move": 10, "ask": 2}, seconds=300, sore=(
                             (COLD, FATES), (TELLING, UNHEARD))),
    "cut off": Theme({"peers unreachable": 0.1}, {"create": 3, "move": 9, "cut": 3, "ask": 1},
                     seconds=200, sore=((TALK, UNHEARD),)),
    "hosts are lost": Theme(events={"create": 3, "move": 6, "ask": 3, "lose a host": 2,
                                    "boot": 1}, seconds=300, shared=0.6),
    "restless": Theme({"kill": 0.015}, {"kill": 4, "boot": 2}),
}


class Faults:
    """One seeded source of trouble.

    :param rng: the simulation's only source of chance.
    """

    def __init__(self, rng: random.Random, hosts: list[str]):
        self.rng = rng
        self.theme = rng.choice(sorted(THEMES))
        theme = THEMES[self.theme]
        self.seconds, self.shared = theme.seconds, theme.shared
        self.rates = {kind: rng.choice(rates) for kind, rates in MIXTURE.items()} | theme.rates
        self.events = {what: rng.choice(counts) for what, counts in EVENTS.items()} | theme.events
        self.sore = {rng.choice(calls): rng.choice(fates) for calls, fates in theme.sore}
        self.sore_host = rng.choice([*hosts, ""])  # the only one that it hurts; "" for all
        self.on = True
        self.pains = PAINS

    def __str__(self) -> str:
        rates = {kind: rate for kind, rate in self.rates.items() if rate}
        return f"theme {self.theme!r}, rates {rates}, sore {self.sore} on {self.sore_host or 'all'}"

    def strikes(self, kind: str) -> bool:
        """Whether it happens now."""
        rate = self.rates[kind]
        return self.on and rate > 0 and self.rng.random() < rate

    def hurts(self, host: str, call: str, when: str) -> str | None:
        """The fate of a host's call at a sore spot, if it strikes now."""
        fate = self.sore.get(call) if self.on and host.startswith(self.sore_host) else None
        if fate is None or not self.pains or self.rng.random() > SORE:
            return None
        after = fate.endswith("after") or fate == "answer lost"
        if after != (when == "after"):
            return None
        self.pains -= 1
        return fate

    def of_call(self, port: str, when: str, away: bool) -> MagnetarError | None:
        """What a call raises, if anything.

        :param away: the port is in an outage: every call fails, before or after its effect.
        """
        if when == "after":
            return self.error("answer lost") if self.strikes(f"{port} answer lost") else None
        if away:
            return self.error("unreachable")
        if self.strikes(f"{port} unreachable"):
            return self.error("unreachable")
        return self.error("failed") if self.strikes(f"{port} failed") else None

    def error(self, fate: str) -> MagnetarError:
        """What the caller of a call with this fate gets to see."""
        if fate == "failed":
            return Failed("It failed.", code="made_to_fail")
        if fate == "answer lost":
            return Unknown("The answer was lost.", code="timeout")
        return self.rng.choice((Unknown("No answer came.", code="timeout"),
                                Retryable("It cannot be reached.", code="unreachable")))
