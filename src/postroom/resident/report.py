"""How the resident is, as facts: what /status says, and what `postroom status` and /healthz judge by.

`about` is what the supervisor knows when it starts the health process, and may tell anew at any time by writing the
same names to its region of the board: `version`, `pid`, `since` (Unix time), `configuration` (path), `loaded` (Unix
time), `workers` (how many there should be), `listeners` (each a dict with `name`, `protocol`, `at`), `restarts`,
`reloads` ([good, refused]), `reloaded` ([Unix time, "" or why it was refused]).
"""

from __future__ import annotations

import time
from typing import Any

from postroom.resident.totals import Totals

# A worker writes once a second. One that has not for ten is stopped, stuck in its loop, or gone; the supervisor waits
# longer before it kills, so that this page can say so first.
BEAT_LIMIT = 10.0

# Kinds of faults that are ours, and what they come to, for people. "protocol" is not among them: clients err.
FAULTS = {
    "handler": "a handler failed: the mail log says where (fault=handler)",
    "deadline": "a handler was not done in time (fault=deadline in the mail log)",
    "configuration": "there was no good configuration: postroom check",
    "busy": "refused because all threads were busy: raise [serve] threads, or see what is slow",
}


def merged(about: dict[str, Any], totals: Totals) -> dict[str, Any]:
    """What the supervisor told at first, and since; what it never told, as the workers know it."""
    told = {**about, **totals.supervisor}
    facts = [totals.workers[slot]["facts"] for slot in totals.beating(BEAT_LIMIT)]
    loaded = [fact["loaded"] for fact in facts if fact.get("loaded")]
    if loaded:
        told["loaded"] = min(loaded)  # the one that is furthest behind
    return told


def refused(about: dict[str, Any], totals: Totals) -> str:
    """Why the newest configuration is not in force, "" where it is.

    Workers know about the file as it is now. What the supervisor has refused, such as an address that it cannot listen
    on, stands until it is told to reload, and can: the file alone does not show it.
    """
    facts = [totals.workers[slot]["facts"] for slot in totals.beating(BEAT_LIMIT)]
    found = [str(fact.get("fault", "")) for fact in facts]
    _, reason = about.get("reloaded") or (0.0, "")
    return next(filter(None, [*found, str(reason)]), "")


def _in_force(totals: Totals) -> str:
    """Which part of the newest configuration was refused; workers that find nothing wrong with the file go by it."""
    if any(totals.workers[slot]["facts"].get("fault") for slot in totals.beating(BEAT_LIMIT)):
        return "the configuration was refused, the one before is in force"
    return "[serve] and [listen] of the configuration were refused, those before and all else of it are in force"


def problems(about: dict[str, Any], totals: Totals) -> list[str]:
    """What is not as it should be, the worst first."""
    lately, slots = totals.lately(), totals.beating(BEAT_LIMIT)
    due = about.get("workers", 1)
    found = []
    if not totals.workers and time.time() - about.get("since", 0.0) < BEAT_LIMIT:
        found.append(f"it has just been started: none of {due} workers has been heard of yet")
    elif len(slots) < due:
        found.append(f"{len(slots) or 'none'} of {due} workers have been heard of within {BEAT_LIMIT:g} s")
    if lately.restarts:
        found.append(f"workers that died in the last minute: {lately.restarts}; the mail log says why")
    if reason := refused(about, totals):
        found.append(f"{_in_force(totals)}: {reason}")
    if stuck := sum(totals.workers[slot]["stuck"] for slot in slots):
        found.append(f"threads held by handlers that are past their deadline: {stuck}")
    for kind, meaning in FAULTS.items():
        if number := sum(many for (_, one), many in lately.faults.items() if one == kind):
            found.append(f"{number} in the last minute: {meaning}")
    return found


def health(about: dict[str, Any], totals: Totals) -> tuple[bool, str]:
    """Whether anybody answers, and a line that says so or why not: for load balancers and watchdogs, not for people.

    A refused configuration or a busy minute is no reason to be taken out of service: somebody still answers.
    """
    beating = len(totals.beating(BEAT_LIMIT))
    due = about.get("workers", beating)
    if beating:
        return (True, f"ok: {beating} of {due} workers")
    return (False, f"no worker has been heard of within {BEAT_LIMIT:g} s" if totals.workers else "no worker yet")


def status(about: dict[str, Any], totals: Totals) -> dict[str, Any]:
    """All of it, for /status. The names are in postroom(1)."""
    now = time.time()
    lately, counts, slots = totals.lately(), totals.counts(), totals.beating(BEAT_LIMIT)
    workers = [_worker(slot, totals.workers[slot]) for slot in slots]
    faults: dict[str, int] = {}
    for (_, kind), number in lately.faults.items():
        faults[kind] = faults.get(kind, 0) + number
    return {
        "version": about.get("version", ""),
        "pid": about.get("pid", 0),
        "uptime": round(max(0.0, now - about.get("since", now)), 1),
        "problems": problems(about, totals),
        "configuration": _configuration(about, totals, now),
        "workers": workers,
        "restarts": totals.restarts,
        "listeners": [_listener(one, workers) for one in about.get("listeners", [])],
        "requests": sum(counts.requests.values()),
        "queue": sum(worker["queue"] for worker in workers),
        "stuck": sum(worker["stuck"] for worker in workers),
        "lately": {"seconds": round(lately.seconds, 1), "requests": lately.requests, "faults": faults},
        "dns": counts.dns,
        "store": counts.store,
        "programs": sorted({str(one) for slot in slots for one in totals.workers[slot]["facts"].get("programs", ())}),
    }


def _configuration(about: dict[str, Any], totals: Totals, now: float) -> dict[str, Any]:
    loaded = about.get("loaded")
    return {
        "path": about.get("configuration", ""),
        "age": None if loaded is None else round(max(0.0, now - loaded), 1),
        "refused": refused(about, totals),
    }


def _worker(slot: int, told: dict[str, Any]) -> dict[str, Any]:
    return {
        "slot": slot,
        "pid": told["pid"],
        "uptime": round(max(0.0, time.time() - told["since"]), 1),
        "beat": round(max(0.0, time.monotonic() - told["beat"]), 1),
        "draining": bool(told["facts"].get("draining", False)),
        "connections": told["open"],
        "requests": sum(told["requests"].values()),
        "queue": told["queue"],
        "stuck": told["stuck"],
        "memory": told["memory"],
        "cpu": round(told["cpu"], 2),
    }


def _listener(one: dict[str, Any], workers: list[dict[str, Any]]) -> dict[str, Any]:
    """`connections` are those of its protocol, whichever listener of it they came through."""
    open = sum(worker["connections"].get(one["protocol"], 0) for worker in workers)
    return {"name": one["name"], "protocol": one["protocol"], "address": one["at"], "connections": open}
