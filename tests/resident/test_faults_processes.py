"""Processes of the resident are killed, or the whole of it is stopped, while mail flows."""

from __future__ import annotations

import os
import signal
import time

from resident.house import House
from resident.house_files import WORKERS
from resident.traffic import IN_HAND, trouble


def test_a_worker_is_killed_again_and_again(house: House) -> None:
    kills = 6
    with trouble(house, "worker killed", 200, pause=0) as case:
        for _ in range(kills):
            os.kill(house.worker(), signal.SIGKILL)
            time.sleep(0.4)
        house.wait_until_well()
    assert case.log.count("killed by SIGKILL") == kills
    assert sum(case.duplicates.values()) <= kills * IN_HAND


def test_the_supervisor_is_killed(house: House) -> None:
    with trouble(house, "supervisor killed", 80) as case:
        children = house.children()
        assert len(children) == WORKERS + 1
        house.stop(signal.SIGKILL)
        end = time.monotonic() + 5
        while any(os.path.exists(f"/proc/{pid}") for pid in children) and time.monotonic() < end:
            time.sleep(0.02)
        assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")], "workers have outlived it"
        time.sleep(2)
        case.nothing_is_lost()
        house.start()
    assert sum(case.duplicates.values()) <= IN_HAND


def test_stopped_under_load_and_started_again(house: House) -> None:
    with trouble(house, "stopped for 10 s", 100) as case:
        assert house.stop() == 0
        time.sleep(10)
        case.nothing_is_lost()
        assert case.queued > 10, "the queue has not grown"
        house.start()
    # What was in hand was finished before the end, or put off: nothing is done a second time.
    assert not case.duplicates
