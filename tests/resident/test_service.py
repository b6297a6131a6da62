"""resident.service: the configuration followed in a thread, and sources for each thread of each program."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from postroom import log
from postroom.resident.service import Quick, Service
from postroom.runners.options import Options
from postroom.sources import Sources
from postroom.status import ConfigurationFault

GOOD = 'state = "{folder}"\ndeadline = "{seconds}s"\n'


_made: list[Service] = []


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Service, "CHECK_INTERVAL", 0.05)
    monkeypatch.setattr(Service, "RETRY_INTERVAL", 0.05)
    before = log._program, log._destination, log._format
    yield
    while _made:
        _made.pop().stop()
    until(lambda: not [one for one in threading.enumerate() if one.name == "configuration"])
    log.open(*before)


def write(folder: Path, seconds: int = 20, text: str = GOOD) -> None:
    draft = folder / "draft"
    draft.write_text(text.format(folder=folder, seconds=seconds))
    os.rename(draft, folder / "postroom.toml")


def service(folder: Path, deadline: float | None = None) -> Service:
    options = Options()
    options.config, options.log, options.deadline = str(folder / "postroom.toml"), str(folder / "log"), deadline
    _made.append(Service(options))
    return _made[-1]


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    assert true()


def test_a_change_is_in_force_within_a_second_and_a_bad_one_never(tmp_path: Path) -> None:
    write(tmp_path, 20)
    made = service(tmp_path)
    made.start()
    before = made.configuration
    assert before.deadline == 20
    write(tmp_path, 25)
    until(lambda: made.configuration is not before)
    assert made.configuration.deadline == 25
    write(tmp_path, text="nonsense = [")
    until(lambda: (tmp_path / "log").read_text().count("fault=configuration") == 1)
    assert made.configuration.deadline == 25
    assert "the one before stays in force" in (tmp_path / "log").read_text()
    assert "postroom/serve[" in (tmp_path / "log").read_text()


def test_without_a_good_one_requests_are_told_what_is_wrong(tmp_path: Path) -> None:
    made = service(tmp_path)
    with pytest.raises(ConfigurationFault, match="not been read yet"):
        _ = made.configuration
    made.start()
    for view in (made, made.lend(30), Quick(made)):
        with pytest.raises(ConfigurationFault, match="No such file"):
            _ = view.configuration
    assert made.serve.threads > 0, "a worker comes up all the same"
    write(tmp_path)
    until(lambda: made._configuration is not None)
    assert Quick(made).configuration is made.configuration


def test_reload_reads_at_once_and_says_what_is_wrong(tmp_path: Path) -> None:
    write(tmp_path, 20)
    made = service(tmp_path)
    made.start()
    before = made.configuration
    assert made.reload() == ""
    assert made.configuration is not before, "read anew, changed or not"
    write(tmp_path, text="nonsense = [")
    reason = made.reload()
    assert "postroom.toml" in reason
    assert made.reload() == reason, "said each time that it is asked for"
    assert made.configuration.deadline == 20


@pytest.mark.parametrize(("given", "most", "expected"), [(None, 30, 20), (None, 10, 10), (5.0, 30, 5), (60.0, 30, 60)])
def test_the_time_for_a_request(tmp_path: Path, given: float | None, most: float, expected: float) -> None:
    write(tmp_path, 20)
    made = service(tmp_path, given)
    early = made.lend(most)
    made.start()
    assert (early.limit, made.lend(most).limit) == (expected, expected)


def test_the_time_for_a_request_follows_the_file(tmp_path: Path) -> None:
    write(tmp_path, 20)
    made = service(tmp_path)
    made.start()
    lent = made.lend(30)
    write(tmp_path, 15)
    assert (made.reload(), lent.limit) == ("", 15)


def test_lent_things_that_nobody_has_any_more_are_forgotten(tmp_path: Path) -> None:
    made = service(tmp_path)
    for _ in range(1000):
        made.lend(30)
    assert len(made._lents) <= 1


def test_sources_are_of_one_thread_and_one_program(tmp_path: Path) -> None:
    write(tmp_path)
    made = service(tmp_path)
    one, other = made.lend(30), made.lend(10)
    found: dict[str, object] = {}
    one.sources, other.sources, made.sources = "one", "other", "own"

    def look() -> None:
        found.update(one=one.sources, other=other.sources, own=made.sources)
        one.sources = "of the thread"

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == {"one": None, "other": None, "own": None}
    assert (one.sources, other.sources, made.sources) == ("one", "other", "own")


def test_sources_of_the_loop_do_not_wait(tmp_path: Path) -> None:
    write(tmp_path)
    made = service(tmp_path)
    made.start()
    quick, lent = Quick(made), made.lend(30)
    quick.sources, lent.sources = Sources(made.configuration, None, None), Sources(made.configuration, None, None)
    assert quick.sources.quick and not lent.sources.quick
