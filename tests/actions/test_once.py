"""actions.once and actions.lock: when a delivery is claimed, and who is locked out of it."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from postroom import store
from postroom.actions import lock, once
from postroom.deadline import Deadline
from postroom.delivery import Mail
from postroom.status import Fault, Outcome, sent

Make = Callable[..., Mail]


class Watched:
    """A store that tells what it was asked, and may have lost its disk."""

    def __init__(self, state: Path) -> None:
        self._store = store.open(str(state), Deadline(20))
        self.asked: list[str] = []
        self.full = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def ask(*arguments: object) -> Any:
            self.asked.append(name)
            if self.full and name != "outcome":
                raise Fault("no room to keep state")
            return method(*arguments)

        return ask


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    yield found
    found._store.close()


def deliver(mail: Mail, watched: Watched, action: str = "maildir") -> Outcome:
    box = f"{mail.configuration.state}/box"
    words = ("maildir", box) if action == "maildir" else ("command", "/bin/true")
    return once.once(words, mail, lambda: watched)


def test_a_maildir_is_claimed_where_nothing_was_written_for_a_while(
    watched: Watched, make_mail: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(once, "monotonic", lambda: now)
    for number, moment in enumerate((1000.0, 1000.9, 1001.8, 1003.0)):
        now = moment
        deliver(make_mail(b"%d" % number), watched)
    assert watched.asked == ["claim", "done", "outcome", "done", "outcome", "done", "claim", "done"]


def test_what_cannot_tell_what_it_has_done_is_claimed_each_time(watched: Watched, make_mail: Make) -> None:
    for number in range(3):
        deliver(make_mail(b"%d" % number), watched, "command")
    assert watched.asked == ["claim", "done"] * 3


def test_a_state_that_is_full_is_noticed_by_one_mail(tmp_path: Path, watched: Watched, make_mail: Make) -> None:
    deliver(make_mail(b"before"), watched)
    watched.full = True
    assert deliver(make_mail(b"at that moment"), watched).kind == "sent"
    for number in range(3):
        with pytest.raises(Fault, match="no room"):
            deliver(make_mail(b"after %d" % number), watched)
    assert len(os.listdir(tmp_path / "box" / "new")) == 2
    watched.full = False
    assert [deliver(make_mail(b"after %d" % number), watched).kind for number in range(3)] == ["sent"] * 3


def test_read_out_and_asked_again_it_is_not_delivered_again(tmp_path: Path, watched: Watched, make_mail: Make) -> None:
    """Without a claim as with one."""
    for number in range(2):
        mail = make_mail(b"%d" % number)
        deliver(mail, watched)
        for name in os.listdir(tmp_path / "box" / "new"):
            os.unlink(tmp_path / "box" / "new" / name)
        assert deliver(mail, watched).kind == "sent"
        assert mail.log["repeated"] == "yes"
        assert os.listdir(tmp_path / "box" / "new") == []


def test_several_threads_at_one_mail_deliver_it_once(tmp_path: Path, mail: Mail) -> None:
    done: list[Outcome] = []
    begun, end = threading.Event(), threading.Event()

    def act(_: object) -> Outcome:
        begun.set()
        assert end.wait(20)
        return sent("delivered")

    def one() -> None:
        opened = store.open(str(tmp_path), mail.deadline)
        done.append(once.recorded(b"key", mail, lambda: opened, act))
        opened.close()

    first = threading.Thread(target=one)
    first.start()
    assert begun.wait(20)
    others = [threading.Thread(target=one) for _ in range(4)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(20)
    assert [outcome.kind for outcome in done] == ["deferred"] * 4
    end.set()
    first.join(20)
    assert done[-1].kind == "sent"


def test_a_lock_is_one_deliverys_and_is_free_again(tmp_path: Path) -> None:
    held = lock.take(str(tmp_path), b"a" * 20, share=False)
    other = lock.take(str(tmp_path), b"b" * 20, share=False)
    assert held and other
    assert in_thread(lambda: lock.take(str(tmp_path), b"a" * 20, share=False)) is None
    other.release()
    assert in_thread(lambda: lock.take(str(tmp_path), b"a" * 20, share=True)) is None, (
        "only the other one was given back"
    )
    held.release()
    again = in_thread(lambda: lock.take(str(tmp_path), b"a" * 20, share=False))
    assert again is not None


def in_thread(step: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(step()))
    thread.start()
    thread.join(20)
    return found[0]


def test_the_file_stays_open_from_mail_to_mail_and_not_after_the_thread(tmp_path: Path) -> None:
    def several() -> set[str]:
        opened = set()
        for number in range(5):
            held = lock.take(str(tmp_path), bytes([number]) * 20, share=False)
            assert held is not None
            held.release()
            opened.add(",".join(descriptors(tmp_path)))
        return opened

    before = descriptors(tmp_path)
    assert len(in_thread(several)) == 1
    assert descriptors(tmp_path) == before
    shared = lock.take(str(tmp_path), b"c" * 20, share=True)
    assert shared is not None
    assert [os.get_inheritable(int(fd)) for fd in descriptors(tmp_path)] == [True]
    shared.release()
    assert descriptors(tmp_path) == before


def descriptors(folder: Path) -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == f"{folder}/{lock.NAME}":
                found.append(fd)
        except FileNotFoundError:
            continue  # the one that lists
    return found


def test_another_file_in_its_place_is_the_one_that_counts(tmp_path: Path) -> None:
    first = lock.take(str(tmp_path), b"a" * 20, share=False)
    assert first is not None
    first.release()
    (tmp_path / lock.NAME).unlink()
    ours = lock.take(str(tmp_path), b"a" * 20, share=False)
    assert ours is not None
    assert in_thread(lambda: lock.take(str(tmp_path), b"a" * 20, share=False)) is None
    ours.release()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    there = lock.take(str(elsewhere), b"a" * 20, share=False)
    assert there is not None
    assert (elsewhere / lock.NAME).exists()
    there.release()
