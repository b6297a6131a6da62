"""Names of attachments, as mail programs write them and as strangers do."""

import time
import tracemalloc
from email import message_from_bytes
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroom import attachments
from postroom.attachments import names
from postroom.message import Message
from postroom.rules import Unknown


def mail(*parts: str) -> Message:
    head = "Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
    return Message.of((head + "".join(f"--b\n{part}\n\nbody\n" for part in parts) + "--b--\n").encode("latin-1"))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ('Content-Disposition: attachment; filename="a.exe"', ["a.exe"]),
        ("Content-Disposition: inline; filename=a.exe", ["a.exe"]),
        ('Content-Type: application/zip; name="b.zip"', ["b.zip"]),
        (
            'Content-Type: application/zip; name="b.zip"\nContent-Disposition: attachment; filename=a.exe',
            ["a.exe", "b.zip"],
        ),
        ("Content-Type: x/y; name=evil.exe\nContent-Disposition: attachment; filename=a.txt", ["a.txt", "evil.exe"]),
        ("Content-Disposition: attachment; filename=a.txt; filename=evil.exe", ["a.txt", "evil.exe"]),
        ('Content-Disposition: x; filename=a\nContent-Disposition: x; filename="evil.exe. ."', ["a", "evil.exe"]),
        ("Content-Disposition: attachment; filename*=utf-8''%e2%82%ac.exe", ["€.exe"]),
        ("Content-Disposition: attachment; filename*0=lon; filename*1=g.exe", ["long.exe"]),
        ('Content-Disposition: attachment; filename="=?utf-8?B?4oKsLmV4ZQ==?="', ["€.exe"]),
        ('Content-Disposition: attachment;\n filename="a b.exe"', ["a b.exe"]),
        ("content-disposition: ATTACHMENT; FILENAME=a.EXE", ["a.EXE"]),
        ("Content-Type: text/plain", []),
        ('Content-Disposition: attachment; filename=""', []),
        ("Content-Disposition: attachment; filename*=klingon''%ff.exe", ["ÿ.exe"]),
        ('Content-Disposition: attachment; filename="=?klingon?B?4oKs?=.exe"', ["=?klingon?B?4oKs?=.exe"]),
        ("Content-Type: message/rfc822\n\nContent-Disposition: attachment; filename=inner.exe", ["inner.exe"]),
    ],
)
def test_names(part: str, expected: list[str]) -> None:
    assert names(mail(part)) == expected


def test_a_mail_without_parts_may_be_one() -> None:
    message = EmailMessage()
    message.set_content("hello")
    message.add_attachment(b"MZ", maintype="application", subtype="octet-stream", filename="setup.exe")
    assert names(Message.of(message.as_bytes())) == ["setup.exe"]
    assert names(Message.of(b"Content-Type: application/x; name=only.exe\n\nMZ\n")) == ["only.exe"]
    assert names(Message.of(b"Subject: x\n\nhello\n")) == []


def test_what_is_too_much_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    many = ["Content-Type: text/plain; name=a"] * (attachments.PARTS_LIMIT + 1)
    assert isinstance(names(mail(*many)), Unknown)
    deep = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(101))
    assert isinstance(names(Message.of(deep.encode())), Unknown)
    headers = b"X-Long: " + b"x" * attachments.HEADERS_LIMIT + b"\n\n"
    assert isinstance(names(Message.of(b"Content-Type: multipart/mixed; boundary=b\n\n--b\n" + headers)), Unknown)
    dashed = b"--\n" * (attachments.DASHED_LIMIT + 1)
    assert isinstance(names(Message.of(b"Content-Type: multipart/mixed; boundary=b\n\n" + dashed)), Unknown)
    monkeypatch.setattr(attachments, "MESSAGE_LIMIT", 10)
    assert isinstance(names(mail("Content-Type: text/plain")), Unknown)


def test_short_lines_in_parts_in_parts_cost_little() -> None:
    """The email package's parser takes a minute and 600 MB for this."""
    text = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(99))
    message = Message.of(
        (text + "Content-Disposition: attachment; filename=a.exe\n\n").encode() + b"x\n" * 5_000_000 + b"--\n" * 1000
    )
    tracemalloc.start()
    start = time.process_time()
    assert names(message) == ["a.exe"]
    assert time.process_time() - start < 5
    assert tracemalloc.get_traced_memory()[1] < 4 * message.size
    tracemalloc.stop()


PIECES = [
    "--b\n", "--b--\n", "--c\n", "--c--\n", "--b \t\n", "--bc\n", "--\n", "\n", "text\n", "From x\n",
    "Content-Type: multipart/mixed; boundary=c\n", "Content-Type: multipart/digest; boundary=c\n",
    "Content-Type: multipart/mixed; boundary=b\n", "Content-Type: multipart/mixed\n", "Content-Type: message/rfc822\n",
    "Content-Disposition: x; filename=1.exe\n", "Content-Disposition: x;\n filename=2.exe\n", "Subject: x\n",
    "Content-Type: text/plain; name=3.exe\n",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25))
def test_no_name_is_missed_that_the_email_package_finds(pieces: list[str]) -> None:
    data = ("Content-Type: multipart/mixed; boundary=b\n\n" + "".join(pieces)).encode()
    expected = {name for part in message_from_bytes(data).walk() if (name := part.get_filename())}
    found = names(Message.of(data))
    assert not isinstance(found, Unknown)
    assert expected <= set(found)


PIECES = [
    "--b\n",
    "--b--\n",
    "\n",
    "Content-Type: multipart/mixed; boundary=",
    "b\n",
    "x",
    "=?",
    "\0",
    "\xff",
    "filename*0*=",
    "message/rfc822\n",
    ";",
    '"',
    "'",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_nothing_a_stranger_writes_raises(pieces: list[str]) -> None:
    data = ("Content-Type: multipart/mixed; boundary=b\n\n" + "".join(pieces)).encode("latin-1")
    assert isinstance(names(Message.of(data)), list | Unknown)
