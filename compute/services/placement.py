"""Placement over its REST API 1.28: the provider of this host, its inventory, traits, and what
consumers hold of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from compute.errors import NeedsOperator, Refused, Retryable
from compute.services.rest import Missing, Rest, reason_of

Row = dict[str, Any]
MICROVERSION = "1.28"  # generations of consumers
CONFLICT = 409
AGAIN = 3  # attempts when somebody else changed the same thing
ROOT = "/resource_providers"
FIELDS = ("total", "reserved", "min_unit", "max_unit", "step_size", "allocation_ratio")


class Placement:
    """What this host tells Placement, and asks it.

    :param conf: the global configuration; ``[placement]`` has keystoneauth1's options, as Nova's.
    """

    def __init__(self, conf: Any):
        self._rest = Rest(
            conf, "placement", "the placement service", conf.placement.http_retries,
            service_type=conf.placement.service_type or "placement",
            default_microversion=MICROVERSION)

    # -- the host ------------------------------------------------------------------------------

    def ensure(self, node: str, name: str) -> None:
        """Make the provider of a node, if there is none.

        :raises NeedsOperator: another node has the name.
        """
        try:
            self._rest.call("GET", f"{ROOT}/{node}", f"show provider {node}")
            return
        except Missing:
            pass
        answer = self._rest.send("POST", ROOT, f"make provider {name}",
                                 json={"uuid": node, "name": name}, accept=(CONFLICT,))
        if answer.status_code == CONFLICT and not self._is_there(node):
            raise NeedsOperator(
                f"Placement has another provider called {name}, and none of this host's identity "
                f"{node}.", now="The scheduler sends no guests here.",
                next=f"If this host was registered anew: 'openstack resource provider show' tells "
                f"what the other one holds; 'openstack resource provider delete' removes it. Its "
                f"name is {name}.", code="provider_conflict")

    def _is_there(self, node: str) -> bool:
        try:
            self._rest.call("GET", f"{ROOT}/{node}", f"show provider {node}")
        except Missing:
            return False
        return True

    def set_inventory(self, node: str, wanted: Mapping[str, Mapping[str, Any]],
                      ours: Iterable[str]) -> bool:
        """Say what a node has, by resource class; classes that are not ``ours`` stay. Returns
        whether anything changed.

        :raises Refused: code ``service_refused``: less than guests hold, for example.
        """
        def change() -> tuple[str, Row] | None:
            found = self._read(node, "inventories")
            there = found["inventories"]
            left = {name: value for name, value in there.items() if name not in set(ours)}
            new = {**left, **{name: dict(value) for name, value in wanted.items()}}
            if _trimmed(new) == _trimmed(there):
                return None
            return "inventories", {"resource_provider_generation":
                                   found["resource_provider_generation"], "inventories": new}

        return self._changed(node, change)

    def set_traits(self, node: str, wanted: Iterable[str],
                   ours: Callable[[str], bool]) -> bool:
        """Say what guests can have on a node; traits that are not ``ours`` stay. Returns whether
        anything changed."""
        def change() -> tuple[str, Row] | None:
            found = self._read(node, "traits")
            there = set(found["traits"])
            new = {trait for trait in there if not ours(trait)} | set(wanted)
            if new == there:
                return None
            return "traits", {"resource_provider_generation":
                              found["resource_provider_generation"], "traits": sorted(new)}

        return self._changed(node, change)

    def _changed(self, node: str, change: Callable[[], tuple[str, Row] | None]) -> bool:
        """Write what ``change`` gives, until nobody else wrote in between."""
        for _ in range(AGAIN):
            found = change()
            if found is None:
                return False
            what, body = found
            answer = self._rest.send("PUT", f"{ROOT}/{node}/{what}", f"tell the {what}",
                                     json=body, accept=(CONFLICT,))
            if answer.status_code != CONFLICT:
                return True
            if "generation" not in answer.text:
                raise Refused(f"Placement does not take the {what} of this host: "
                              f"{reason_of(answer)}.",
                              now="The scheduler works with what it was told before.",
                              next="See what guests hold here with 'openstack resource provider "
                              f"show --allocations {node}'.", code="service_refused")
        raise _contended(f"tell it the provider {node}")

    def _read(self, node: str, what: str) -> Row:
        try:
            return self._rest.call("GET", f"{ROOT}/{node}/{what}", f"read the {what}")
        except Missing as error:
            raise Retryable(f"Placement has no provider {node}.", now="Nothing was changed.",
                            next="It is made again with the next report.",
                            code="service_unreachable") from error

    # -- what consumers hold -------------------------------------------------------------------

    def consumers(self, node: str) -> dict[str, dict[str, int]]:
        """Resources of a node by consumer: guests, and migrations."""
        found = self._read(node, "allocations")
        return {consumer: dict(one["resources"]) for consumer, one in found["allocations"].items()}

    def held(self, consumer: str) -> dict[str, dict[str, int]]:
        """What a consumer holds, by provider."""
        return {node: dict(one["resources"]) for node, one in self._of(consumer).items()}

    def _of(self, consumer: str) -> Row:
        return self._record(consumer)["allocations"]

    def _record(self, consumer: str) -> Row:
        return self._rest.call("GET", f"/allocations/{consumer}",
                               f"read the allocations of {consumer}")

    def hand_over(self, consumer: str, other: str) -> bool:
        """Let another consumer hold what one holds, in place of what it held; whether it was done.
        Placement does both at once, or nothing when either was changed meanwhile."""
        mine, theirs = self._record(consumer), self._record(other)
        if not mine["allocations"]:
            return False
        owner = {"project_id": mine["project_id"], "user_id": mine["user_id"]}
        body = {
            consumer: {**owner, "allocations": {},
                       "consumer_generation": mine["consumer_generation"]},
            other: {**owner, "allocations": _resources(mine["allocations"]),
                    "consumer_generation": theirs.get("consumer_generation")},
        }
        answer = self._rest.send("POST", "/allocations", f"give what {consumer} holds to {other}",
                                 json=body, accept=(CONFLICT,))
        return answer.status_code != CONFLICT

    def leave(self, consumer: str, node: str) -> None:
        """Take one node out of what a consumer holds; tried again later when somebody changed it
        meanwhile."""
        record = self._record(consumer)
        left = {name: one for name, one in record["allocations"].items() if name != node}
        if left and left != record["allocations"]:
            self._rest.send("PUT", f"/allocations/{consumer}", f"free what {consumer} held",
                            json={"allocations": _resources(left),
                                  **{key: record[key] for key in (
                                      "project_id", "user_id", "consumer_generation")}},
                            accept=(CONFLICT,))

    def claim(self, consumer: str, node: str, resources: Mapping[str, int], project: str,
              user: str) -> bool:
        """Write down what a guest that is here holds, when it holds nothing anywhere; whether it
        was written."""
        body = {"allocations": {node: {"resources": dict(resources)}}, "project_id": project,
                "user_id": user, "consumer_generation": None}
        answer = self._rest.send("PUT", f"/allocations/{consumer}", f"claim for {consumer}",
                                 json=body, accept=(CONFLICT,))
        return answer.status_code != CONFLICT

    def release(self, consumer: str) -> None:
        """Give back all that a consumer holds. Quiet if it holds nothing."""
        try:
            self._rest.call("DELETE", f"/allocations/{consumer}", f"free what {consumer} holds")
        except Missing:
            return


def _resources(allocations: Mapping[str, Mapping[str, Any]]) -> Row:
    return {node: {"resources": dict(one["resources"])} for node, one in allocations.items()}


def _trimmed(inventories: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Inventories without what Placement adds by itself."""
    defaults = {"reserved": 0, "min_unit": 1, "step_size": 1, "allocation_ratio": 1.0}
    return {name: {field: float(one.get(field, defaults.get(field, 0))) for field in FIELDS}
            for name, one in inventories.items()}


def _contended(doing: str) -> Retryable:
    return Retryable(f"Placement was changed by somebody else each time that it was asked to "
                     f"{doing}.", now="Nothing was changed.", next="It is tried again.",
                     code="service_unreachable")
