"""The configuration is read again and again, good or broken, or the clock jumps, while mail flows."""

from __future__ import annotations

import signal
import time

from resident.house import House
from resident.traffic import trouble


def use_up(house: House, sender: str) -> None:
    """Three are let pass in an hour."""
    said = [house.ask(sender, "a@d1.pipe.test") for _ in range(4)]
    assert said == ["DUNNO", "DUNNO", "DUNNO", "450 4.7.1 enough"]


def refused(house: House) -> str:
    """Why the file is not in force, once that has been seen to: SIGHUPs that come fast are one, a second later."""
    end = time.monotonic() + 10
    while (reason := house.status()["configuration"]["refused"]) and time.monotonic() < end:
        time.sleep(0.2)
    return str(reason)


def test_a_reload_every_tenth_of_a_second_each_second_one_broken(house: House) -> None:
    use_up(house, "reload@limited.test")
    with house.connect("policy") as before, trouble(house, "reloads") as case:
        for turn in range(60):
            house.configure("nonsense = 1\n" if turn % 2 else f"# {turn}\n")
            house.tell(signal.SIGHUP)
            time.sleep(0.1)
        house.configure()
        house.tell(signal.SIGHUP)
        before.sendall(
            b"request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a@client.test\nrecipient=a@b.test\n\n"
        )
        assert before.recv(100) == b"action=DUNNO\n\n", "a connection from before was dropped"
    assert house.ask("reload@limited.test", "a@d1.pipe.test") == "450 4.7.1 enough", "a counter was lost"
    assert "nonsense" in case.log and "is in force" in case.log
    assert "killed" not in case.log and "fault=resident" not in case.log
    assert refused(house) == "", "the last one was good"
    assert not case.traffic.tries and not case.deferred, "a reload cost somebody an answer"
    assert not case.duplicates


def test_the_clock_jumps_an_hour(house: House) -> None:
    house.stop()
    house.start(clocked=True)
    use_up(house, "clock@limited.test")
    try:
        with trouble(house, "clock jumping") as case:
            for seconds in (3600, 0, -3600, 7200, -7200, 0):
                house.set_clock(seconds)
                time.sleep(1)
                assert house.ask("clock@limited.test", "a@d1.pipe.test") == "450 4.7.1 enough", seconds
    finally:
        house.set_clock(0)
    assert "killed" not in case.log and "fault=resident" not in case.log
    assert not case.traffic.tries and not case.deferred
    assert not case.duplicates
