"""The name server fails, in one way or another, while mail flows whose way hangs on it."""

from __future__ import annotations

import time

import pytest
from resident.door import Door
from resident.house import House
from resident.traffic import trouble


@pytest.mark.parametrize("mode", ["shut", "slow", "servfail", "garbage"])
def test_dns_fails_and_comes_back(house: House, door: Door, mode: str) -> None:
    asked = door.asked
    with trouble(house, f"DNS {mode}", 80) as case:
        door.mode = mode
        try:
            time.sleep(6)
            case.nothing_is_lost()
            others = [number for number in house.delivered() if number % 4 == 1 and number in case.traffic.injected]
            assert len(others) > 2, "mail that needs no DNS does not get through"
        finally:
            door.mode = "open"
    assert case.deferred, "all went well: DNS was not asked"
    assert mode == "shut" or door.asked > asked + 10
    assert not case.duplicates
