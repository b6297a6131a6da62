"""actions.command: what a program makes of the mail, and what its end means."""

import os
import resource
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from postroom.actions import command, perform
from postroom.delivery import Mail
from postroom.status import ConfigurationFault, Fault

Make = Callable[..., Mail]
Script = Callable[[str], str]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Writes a program; ${OUT} in it is a folder of the test's."""

    def write(text: str) -> str:
        path = tmp_path / "odd-program"
        path.write_text(f"#!/bin/sh\n{text.replace('${OUT}', str(tmp_path))}\n")
        path.chmod(0o755)
        return str(path)

    return write


def run(mail: Mail, *words: str) -> tuple[str, str]:
    outcome = perform(("command", *words), mail)
    return outcome.status, outcome.text


def test_the_message_is_its_input_and_its_first_line_is_told(script: Script, mail: Mail, tmp_path: Path) -> None:
    program = script("cat > ${OUT}/got; echo kept 'under  7'; echo more")
    assert run(mail, program) == ("2.0.0", "delivered to command odd-program: kept under 7")
    assert (tmp_path / "got").read_bytes() == b"".join(mail.message.chunks())


def test_it_need_not_read_its_input(script: Script, make_mail: Make) -> None:
    assert run(make_mail(b"x" * 5_000_000), script("exit 0")) == ("2.0.0", "delivered to command odd-program")


@pytest.mark.parametrize("size", [0, 1, 262144, 262145, 5_000_000])
def test_any_size_arrives_whole(script: Script, make_mail: Make, tmp_path: Path, size: int) -> None:
    assert run(make_mail(b"\0\n" * (size // 2) + b"x" * (size % 2)), script("cat > ${OUT}/got"))[0] == "2.0.0"
    assert (tmp_path / "got").stat().st_size == size


def test_words_stay_words_and_no_shell_sees_them(script: Script, mail: Mail, tmp_path: Path) -> None:
    words = ["a b", "$(touch ${OUT}/bad)", "; exit 67", "", "-x", "*", "n\0ul", "\udcff", "line\nend"]
    program = script('printf "%s|" "$@" > ${OUT}/got')
    assert run(mail, program, *words)[0] == "2.0.0"
    wanted = "|".join([*words, ""]).replace("\0", "?").encode("utf-8", "surrogateescape")
    assert (tmp_path / "got").read_bytes() == wanted


def test_the_environment_is_what_the_mail_says_and_nothing_else(
    script: Script, make_mail: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/secret")
    monkeypatch.setenv("LANG", "C")
    monkeypatch.delenv("TZ", raising=False)
    monkeypatch.delenv("MAIL_CONFIG", raising=False)
    mail = make_mail(
        sender="", recipient="a\0b+c@Example.ORG", original="o@example.org", client_address="IPv6:::1", size="70"
    )
    assert run(mail, script("cat /proc/self/environ > ${OUT}/got"))[0] == "2.0.0"
    found = dict(pair.split("=", 1) for pair in (tmp_path / "got").read_text().split("\0") if pair)
    found.pop("PWD", None)  # the shell's own
    assert found == {
        "PATH": "/usr/bin:/bin", "LANG": "C", "SENDER": "", "RECIPIENT": "a?b+c@Example.ORG",
        "ORIGINAL_RECIPIENT": "o@example.org", "LOCAL": "a?b+c", "DOMAIN": "example.org", "QUEUE_ID": "4XyzQ",
        "SIZE": "70", "NEXTHOP": "", "CLIENT_ADDRESS": "::1", "CLIENT_HOSTNAME": "", "CLIENT_HELO": "",
        "CLIENT_PROTOCOL": "", "CLIENT_PORT": "", "SASL_METHOD": "", "SASL_SENDER": "", "SASL_USERNAME": "",
        "ENVID": "",
    }  # fmt: skip


def test_it_gets_none_of_our_descriptors_and_the_default_signals(script: Script, mail: Mail) -> None:
    kept = os.open("/etc/passwd", os.O_RDONLY)
    program = script("ls -l /proc/$$/fd | grep -F /etc/passwd || grep SigIgn /proc/self/status")
    *_, name, ignored = run(mail, program)[1].split()
    assert name == "SigIgn:"
    assert int(ignored, 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0
    os.close(kept)


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("exit 65", "5.6.0", "data format error"),
        ("exit 67", "5.1.1", "user unknown"),
        ("echo nobody of that name; exit 67", "5.1.1", "nobody of that name"),
        ("exit 68", "5.1.2", "host unknown"),
        ("exit 77", "5.7.0", "permission denied"),
        ("echo 5.2.2 full; exit 1", "5.2.2", "full"),
        ("echo 5.7.1 no >&2; exit 75", "5.7.1", "no"),
        ("echo 4.2.2 full; exit 67", "4.2.2", "full"),
        ("printf '5.1.1\\tno  such\\nuser'; exit 67", "5.1.1", "no such user"),
        ("printf 5.1.1; exit 1", "5.1.1", "command odd-program gave no reason"),
        ("echo 2.0.0 fine; exit 1", "4.3.0", "command odd-program failed with exit status 1: 2.0.0 fine"),
        ("echo 2.0.0 fine; exit 67", "4.3.0", "command odd-program failed with exit status 67: 2.0.0 fine"),
        ("echo ' 5.1.1 no'; exit 1", "4.3.0", "command odd-program failed with exit status 1: 5.1.1 no"),
        ("echo 550 5.1.1 no; exit 1", "4.3.0", "command odd-program failed with exit status 1: 550 5.1.1 no"),
        ("echo 5.1.1x no; exit 1", "4.3.0", "command odd-program failed with exit status 1: 5.1.1x no"),
        ("echo; echo 5.1.1 no; exit 1", "4.3.0", "command odd-program failed with exit status 1"),
        ("echo 5.1.1 no; kill -9 $$", "4.3.0", "command odd-program died with signal 9: 5.1.1 no"),
        ("kill -TERM $$", "4.3.0", "command odd-program died with signal 15"),
        ("printf '\\033[2J\\377\\0x'; exit 1", "4.3.0", "command odd-program failed with exit status 1: ?[2J\ufffd?x"),
        *[
            (f"exit {code}", "4.3.0", f"command odd-program failed with exit status {code}")
            for code in (1, 2, 64, 66, 69, 70, 71, 72, 73, 74, 75, 76, 78, 79, 100, 111, 126, 127, 128, 255)
        ],
    ],
)
def test_what_its_end_means(script: Script, mail: Mail, text: str, status: str, said: str) -> None:
    assert run(mail, script(text)) == (status, said)


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: path.chmod(0o644), "Permission denied"),
        (lambda path: path.write_text("exit 0\n"), "Exec format error"),
        (lambda path: path.write_text("#!/no/such/interpreter\n"), "No such file or directory"),
        (lambda path: path.write_bytes(b"\x7fELF\0\0\0\0"), "Exec format error"),
    ],
)
def test_what_cannot_be_run_is_our_fault(
    script: Script, mail: Mail, prepare: Callable[[Path], object], reason: str
) -> None:
    program = script("exit 0")
    prepare(Path(program))
    with pytest.raises(Fault) as caught:
        run(mail, program)
    assert (str(caught.value), caught.value.status) == (f"command odd-program: {reason}", "4.3.0")


def test_a_folder_and_an_argument_too_long_are_our_fault(mail: Mail, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="Permission denied"):
        run(mail, str(tmp_path))
    with pytest.raises(Fault, match="Argument list too long"):
        run(mail, "/bin/true", "x" * 3_000_000)


@pytest.mark.parametrize("words", [(), ("",), ("true",), ("bin/true",), ("./x",)])
def test_a_path_that_is_not_absolute_is_refused(mail: Mail, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationFault, match="expected an absolute path"):
        run(mail, *words)


def test_it_may_print_a_lot(script: Script, mail: Mail) -> None:
    program = script("yes 'a line of a certain length' | head -c 3000000; exit 0")
    assert run(mail, program) == ("2.0.0", "delivered to command odd-program: a line of a certain length")


def test_printing_for_ever_ends_with_the_deadline_and_in_little_memory(script: Script, make_mail: Make) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    status, text = run(make_mail(seconds=2), script("exec yes"))
    assert (status, text) == ("4.3.0", "command odd-program did not finish within 1.8 seconds and was stopped")
    assert time.monotonic() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2000


def test_a_child_in_the_background_is_not_waited_for(script: Script, make_mail: Make, tmp_path: Path) -> None:
    started = time.monotonic()
    program = script("(sleep 3; echo late) & echo early")
    assert run(make_mail(), program) == ("2.0.0", "delivered to command odd-program: early")
    program = script("yes & echo $! > ${OUT}/pid; exit 0")
    assert run(make_mail(), program)[0] == "2.0.0"
    assert time.monotonic() - started < 2
    wait_for(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists())


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_past_its_time_it_is_asked_to_end_and_then_ended_with_all_its_children(
    script: Script, make_mail: Make, tmp_path: Path
) -> None:
    program = script(
        "(trap '' TERM; exec sleep 60) & echo $! > ${OUT}/child; trap 'touch ${OUT}/asked; exit 0' TERM; wait"
    )
    started = time.monotonic()
    assert run(make_mail(seconds=2), program)[0] == "4.3.0"
    assert 1.7 < time.monotonic() - started < 2
    assert (tmp_path / "asked").exists()
    line = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/cmdline")
    wait_for(lambda: not line.exists() or b"sleep" not in line.read_bytes())


def test_one_that_does_not_listen_is_ended_in_time(script: Script, make_mail: Make, tmp_path: Path) -> None:
    program = script("trap '' TERM; echo $$ > ${OUT}/pid; while :; do sleep 0.05; done")
    started = time.monotonic()
    assert run(make_mail(seconds=2), program)[0] == "4.3.0"
    assert time.monotonic() - started < 2
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists(), "not even a zombie"


def test_the_input_is_a_file_of_its_own(script: Script, mail: Mail) -> None:
    """Were we killed now, the program could still read the whole mail; and it cannot write into ours."""
    program = script("echo changed >&0; exit 0")
    before = b"".join(mail.message.chunks())
    run(mail, program)
    assert b"".join(mail.message.chunks()) == before
    fd = command._as_file(mail.message)
    assert stat.S_ISREG(os.fstat(fd).st_mode)
    os.close(fd)


class Endless:
    """100 MB that are nowhere in memory at once."""

    size = 100_000_000

    def chunks(self) -> Iterator[bytes]:
        for _ in range(0, self.size, 50_000):
            yield b"x" * 50_000


def test_100_mb_in_little_memory(script: Script, make_mail: Make, tmp_path: Path) -> None:
    program = script("wc -c > ${OUT}/got")
    pid = os.fork()
    if pid == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        mail = make_mail(seconds=100)
        mail.message = Endless()
        outcome = perform(("command", program), mail)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os._exit(0 if outcome.kind == "sent" and grown < 4000 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / "got").read_text().strip() == "100000000"
