"""tools/lab kills: plays the kills of :mod:`tools.toolbox.lab.kills`, keeps what came of each, and
writes the table of docs/recovery.md."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from tools.toolbox.lab import kills
from tools.toolbox.lab.guest import LabGuest
from tools.toolbox.lab.kills import MOMENTS, VICTIMS, Case
from tools.toolbox.lab.lab import Lab
from tools.toolbox.lab.place import TOP, LabError

SEEN = TOP / ".cache/lab-kills.jsonl"
LOGS = TOP / ".cache/lab-kills"
PAGE = TOP / "docs/recovery.md"
BEGIN, END = "<!-- tools/lab kills --write: begin -->", "<!-- tools/lab kills --write: end -->"
TRIES = 3  # for a moment that was missed
SHORT = {"moved": "moved", "stayed": "stayed", "off, moved": "off there",
         "off, stayed": "off here", "asked, off, moved": "asked, off there",
         "asked, off, stayed": "asked, off here"}
HEAD = """\
Each cell: what came of it, how often, and the longest time in seconds from the restart of what was
killed (or from the repair of the link) until all of this held: at most one copy of the guest, the
record true and without a task, the migration ended, no operation, domain, directory, tap or claim
left where it does not belong. *moved*: it runs at the destination. *stayed*: it runs at the source.
*off here*, *off there*: the QEMU that had the guest was killed; it is recorded as off at the source
or the destination, its disk is sound, and it booted from it. *asked*: before that an operator was
asked, and stopped with virsh what was left of a guest whose memory had been on both hosts and was
lost on one. The guest's counter never went back, except where a cell says *failed*.
"""


def run(name: str, times: int, only: str, again: bool, write: bool) -> int:
    """Play what has not been seen yet; 0 when all that was seen ended as it must.

    :param only: a regular expression; cases whose text does not match are left out.
    :param again: forget what was seen of these cases.
    """
    wanted = [case for case in kills.cases(times) if re.search(only, str(case))]
    seen = {} if again else load()
    left = [case for case in wanted if "result" not in seen.get(case, {})]
    print(f"{len(wanted)} kills, {len(wanted) - len(left)} of them seen before.", flush=True)
    lab, guest = Lab(name), None
    try:
        for number, case in enumerate(left, 1):
            guest = guest or fresh(lab)
            told, guest = _play(guest, case)
            note(case, told)
            print(f"[{number}/{len(left)}] {case}: {_line(told)}", flush=True)
    finally:
        lab.down()
    seen = load()
    if write:
        PAGE.write_text(with_table(PAGE.read_text(), table(seen)))
        print(f"The table in {PAGE.relative_to(TOP)} is written.")
    failed = [case for case in wanted if "result" not in seen.get(case, {})]
    return 1 if failed else 0


def fresh(lab: Lab) -> LabGuest:
    """A new lab of two hosts, whatever was there before, and its guest."""
    lab.down()
    lab.up(2, options=kills.OPTIONS)
    return kills.lab_with_guest(lab)


def _play(guest: LabGuest, case: Case) -> tuple[dict[str, Any], LabGuest | None]:
    """What came of a case; the guest for the next one, None when a new lab is needed."""
    panics, why = 0, ""
    for _ in range(TRIES):
        try:
            return vars(kills.play(guest, case)) | {"panics": panics}, guest
        except kills.Missed as error:
            why = str(error)
            kills.recover_from_miss(guest)
        except kills.Panicked as error:
            why, panics = str(error), panics + 1
            guest = fresh(guest.lab)
        except LabError as error:
            kept = LOGS / re.sub(r"\W+", "-", str(case))
            shutil.rmtree(kept, ignore_errors=True)
            _keep_logs(guest.lab, kept)
            return {"failed": f"{error} Logs: {kept.relative_to(TOP)}", "panics": panics}, None
    return {"missed": why, "panics": panics}, guest


def _keep_logs(lab: Lab, to: Path) -> None:
    files = lab.place.directory
    for path in (*files.glob("**/log/*.log"), *files.glob("*/state/instances/*/console.log*")):
        target = to / path.relative_to(lab.place.directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def _line(told: dict[str, Any]) -> str:
    if "result" in told:
        return f"{told['result']}, migration {told['status']}, after {told['seconds']} s"
    return f"FAILED: {told['failed']}" if "failed" in told else f"missed: {told['missed']}"


def note(case: Case, told: dict[str, Any]) -> None:
    """Keep what came of a case."""
    SEEN.parent.mkdir(exist_ok=True)
    with SEEN.open("a") as file:
        file.write(json.dumps({**vars(case), **told, "at": round(time.time())}) + "\n")


def load() -> dict[Case, dict[str, Any]]:
    """What was seen last of each case; ``panics`` are those of all times that it was played."""
    found: dict[Case, dict[str, Any]] = {}
    for line in SEEN.read_text().splitlines() if SEEN.exists() else ():
        told = json.loads(line)
        case = Case(told["moment"], told["victim"], told["number"])
        before = found.get(case, {}).get("panics", 0)
        found[case] = told | {"panics": before + told.get("panics", 0)}
    return found


def table(seen: dict[Case, dict[str, Any]]) -> str:
    """The table of what was seen, in Markdown."""
    lines = [f"| killed | {' | '.join(MOMENTS)} |", "| --- |" + " --- |" * len(MOMENTS)]
    for victim in VICTIMS:
        cells = [_cell([told for case, told in seen.items()
                        if (case.moment, case.victim) == (moment, victim)]) for moment in MOMENTS]
        lines.append(f"| {victim} | {' | '.join(cells)} |")
    done = [told["seconds"] for told in seen.values() if "result" in told]
    bad = [f"{case}" for case, told in seen.items() if "failed" in told]
    panics = sum(told.get("panics", 0) for told in seen.values())
    lines += ["", f"{len(done)} kills, all converged within {max(done, default=0):.0f} s"
              + (f"; not as it must be: {', '.join(bad)}." if bad else ".")]
    if panics:
        lines += [f"{panics} more were repeated, since emulation without KVM spoilt the guest's "
                  "memory while it was copied and its kernel panicked."]
    return HEAD + "\n" + "\n".join(lines) + "\n"


def _cell(told: list[dict[str, Any]]) -> str:
    words = []
    for result, short in SHORT.items():
        times = [one["seconds"] for one in told if one.get("result") == result]
        if times:
            words.append(f"{short} {len(times)}×, {max(times):.0f} s")
    failed = sum("failed" in one for one in told)
    return "; ".join(words + ([f"**failed {failed}×**"] if failed else [])) or "not seen"


def with_table(page: str, text: str) -> str:
    """The page with what is between its markers replaced. Raises LabError without markers."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise LabError(f"{PAGE} has no place for the table: its two marker comments are missing.")
    return f"{head}{BEGIN}\n{text}{END}{tail}"
