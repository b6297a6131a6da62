"""The scanner: against the standard library's parser where both may be right, and against hostile input."""

from __future__ import annotations

import base64
import contextlib
import os
import quopri
import resource
import time
from email import message_from_bytes
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.bounces import report
from postroom.bounces.scan import (
    FIRST_READ,
    NESTING_LIMIT,
    PARTS_LIMIT,
    READ_LIMIT,
    RETURNED,
    _quoted,
    content_type,
    field,
    fields,
    scan,
)
from postroom.message import Message

TOP = b"From: a@example.com\nSubject: s\nMIME-Version: 1.0\n"
REPORT = TOP + b'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
STATUS = b"--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\n"
RECIPIENT = b"Final-Recipient: rfc822; user%d@example.com\nAction: failed\nStatus: 5.1.1\n\n"

texts = st.binary(max_size=60).map(lambda data: data.replace(b"\r", b"").replace(b"-", b""))


def multipart(boundary: bytes, parts: list[bytes]) -> bytes:
    body = b"".join(b"--" + boundary + b"\nContent-Type: text/plain\n\n" + part + b"\n" for part in parts)
    return TOP + b"Content-Type: multipart/mixed; boundary=" + boundary + b"\n\n" + body + b"--" + boundary + b"--\n"


@given(st.lists(texts, min_size=1, max_size=5))
def test_parts_are_those_that_the_standard_library_finds(parts: list[bytes]) -> None:
    data = multipart(b"xyz", parts)
    ours = [part.text() for part in scan(Message.of(data)).parts]
    payloads = [part.get_payload(decode=True) for part in message_from_bytes(data).walk() if not part.is_multipart()]
    assert ours == parts
    assert [payload.replace(b"\r\n", b"\n") for payload in payloads] == [p.replace(b"\r\n", b"\n") for p in parts]


@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_a_word(data: bytes) -> None:
    report.read(Message.of(data))
    report.read(Message.of(REPORT + STATUS + data))
    report.read(Message.of(REPORT + b"--b\nContent-Type: " + data + b"\n\n--b--\n"))


@given(st.lists(st.sampled_from([
    b"--b\n", b"--b--\n", b"--c\n", b"\n", b"Content-Type: multipart/mixed; boundary=c\n",
    b"Content-Type: message/rfc822\n", b"Content-Type: message/delivery-status\n",
    b"Final-Recipient: rfc822; a@b\n", b"Action: failed\n", b"Status: 5.1.1\n", b" x\n",
    b"Content-Transfer-Encoding: base64\n", b"Content-Transfer-Encoding: quoted-printable\n", b"=\n", b"QQ\n",
]), max_size=30))  # fmt: skip
def test_any_order_of_lines_is_read_without_a_word(lines: list[bytes]) -> None:
    found = report.read(Message.of(REPORT + b"".join(lines)))
    assert {one.address for one in found.recipients} <= {"a@b"}


@pytest.mark.parametrize("kind", RETURNED)
def test_nothing_behind_the_returned_message_is_read(kind: bytes) -> None:
    data = (
        REPORT + b"--b\nContent-Type: " + kind.upper() + b"\n\nSubject: x\n\n" + STATUS + RECIPIENT % 1 + b"\n--b--\n"
    )
    found = report.read(Message.of(data))
    assert found.kind == "not-a-bounce"
    assert found.fields == {"original_subject": "x"}


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [(b"base64", base64.encodebytes), (b"BASE64", lambda data: base64.encodebytes(data).rstrip(b"=\n")),
     (b"quoted-printable", quopri.encodestring), (b"8bit", bytes)],
)  # fmt: skip
def test_an_encoded_report_part_is_decoded(encoding: bytes, encode) -> None:
    inside = b"Reporting-MTA: dns; x\n\n" + RECIPIENT % 7
    head = b"--b\nContent-Type: message/delivery-status\nContent-Transfer-Encoding: " + encoding + b"\n\n"
    found = report.read(Message.of(REPORT + head + encode(inside) + b"\n--b--\n"))
    assert [(one.address, one.status) for one in found.recipients] == [("user7@example.com", "5.1.1")]


def test_a_report_wrapped_by_a_list_is_found() -> None:
    outer = TOP + b'Content-Type: multipart/mixed; boundary="outer"\n\n--outer\n\nA footer comes below.\n'
    inner = b"--outer\n" + REPORT[len(TOP) :] + STATUS + RECIPIENT % 1 + b"--b--\n--outer--\n"
    assert [one.address for one in report.read(Message.of(outer + inner)).recipients] == ["user1@example.com"]


def test_a_boundary_that_begins_like_another_is_another() -> None:
    outer = (
        TOP + b'Content-Type: multipart/mixed; boundary="x"\n\n--x\nContent-Type: multipart/mixed; boundary="xy"\n\n'
    )
    data = outer + b"--xy\n\none\n--xy\n\ntwo\n--xy--\n--x\n\nthree\n--x--\n"
    assert [part.text() for part in scan(Message.of(data)).parts] == [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'Multipart/Report; Boundary="a b" ; x=y', (b"multipart/report", {b"boundary": b"a b", b"x": b"y"})),
        (b'a/b; c="x\\"y\\\\"; d=e', (b"a/b", {b"c": b'x"y\\', b"d": b"e"})),
        (b'a/b; c="never closed; d=e', (b"a/b", {b"c": b"never closed; d=e"})),
        (b'a/b; c = d; c=second', (b"a/b", {b"c": b"d"})),
        (b"", (b"text/plain", {})),
        (b"a/b; =;=;;", (b"a/b", {b"": b""})),
    ],
)  # fmt: skip
def test_content_types(value: bytes, expected: tuple[bytes, dict[bytes, bytes]]) -> None:
    assert content_type(value) == expected


@given(st.binary(max_size=100))
def test_any_content_type_is_read(value: bytes) -> None:
    content_type(value)


def test_fields_are_unfolded_and_gaps_seen() -> None:
    block = b"A: one\n  two\n\tthree\nno field\nB :four\n\n  lost\nc:\n \nD: five"
    assert list(fields(block)) == [
        (b"a", b"one two three"), (b"b", b"four"), (b"", b""), (b"c", b""), (b"", b""), (b"d", b"five"),
    ]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(["A", "Bc", "X-a"]), st.text("xyz :\t", max_size=8)), max_size=6))
def test_a_field_looked_up_is_the_first_of_the_name(pairs: list[tuple[str, str]]) -> None:
    block = "".join(f"{name}: {value.strip()}\n" for name, value in pairs).encode()
    for name in ("a", "bc", "x-a", "c"):
        first = next((value for found, value in fields(block) if found == name.encode()), b"")
        assert field(block, name.encode()) == first


def test_no_more_is_read_than_the_limit() -> None:
    taken = []

    class Endless(Message):
        def chunks(self):
            for _ in range(2 * READ_LIMIT // 65536):
                taken.append(1)
                yield b"x" * 65536

    Endless(b"", None, 2 * READ_LIMIT)
    message = Endless(b"", None, 2 * READ_LIMIT)
    assert scan(message).cut
    assert len(taken) <= (READ_LIMIT + FIRST_READ) // 65536 + 2


def test_the_last_recipient_of_a_report_that_is_cut_is_not_believed() -> None:
    long = REPORT + STATUS + b"".join(RECIPIENT % number for number in range(80_000))
    assert len(long) > READ_LIMIT
    found = report.read(Message.of(long))
    assert len(found.recipients) == 10_000
    one = RECIPIENT.replace(b"failed", b"delayed") % 1
    padded = (
        REPORT
        + STATUS.replace(b"dns; x", b"dns; " + b"x" * (READ_LIMIT - 500))
        + one
        + b"Final-Recipient: rfc822; b@x\n"
    )
    padded += b"Action: failed\nX: " + b"y" * 1000 + b"\nStatus: 5.1.1\n"
    assert [r.address for r in report.read(Message.of(padded)).recipients] == ["user1@example.com"]


HOSTILE = {
    "empty parts": (REPORT + b"--b\n\n" * 100_000 + STATUS + RECIPIENT % 1, 0),
    "parts": (REPORT + b"--b\nContent-Type: text/plain\n\nx\n" * 100_000, 0),
    "nested multiparts": (
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(3000)), 0,
    ),
    "the same boundary nested": (b"Content-Type: multipart/mixed; boundary=b\n\n--b\n" * 3000, 0),
    "nested messages": (REPORT + b"--b\nContent-Type: message/rfc822\n\n" * 3000 + STATUS + RECIPIENT % 1, 0),
    "folded lines": (REPORT + STATUS + b"Final-Recipient: rfc822;\n" + b" x\n" * 200_000 + RECIPIENT % 1, None),
    "folded header": (b"Subject: x\n" + b" x\n" * 200_000 + REPORT, 0),
    "one line": (REPORT + STATUS + b"Final-Recipient: rfc822; " + b"x" * 20_000_000, 0),
    "recipients": (REPORT + STATUS + b"".join(RECIPIENT % number for number in range(20_000)), 10_000),
    "recipients in base64": (
        REPORT + STATUS.replace(b"\n\n", b"\nContent-Transfer-Encoding: base64\n\n", 1)
        + base64.encodebytes(b"".join(RECIPIENT % number for number in range(20_000))), 10_000,
    ),
    "parentheses": (b"From: " + b"(" * 2000 + b"\nSubject: " + b"(" * 2000 + b"\n" + REPORT, 0),
    "charset": (TOP + b"Subject: =?no-such-charset?q?=ff?=\nContent-Type: text/plain; charset=lies\n\n\xff", 0),
    "encoded words": (b"Subject: " + b"=?utf-8?q?a?= " * 18_000 + b"\n\n", 0),
    "NULs": (REPORT + STATUS + b"\0" * 1_000_000 + b"\n" + RECIPIENT % 1, 1),
    "headers": (b"a:b\n" * 1_000_000 + b"\n", 0),
    "boundary of dashes": (b'Content-Type: multipart/mixed; boundary="-"\n\n' + b"---x\n" * 1_000_000, 0),
    "backslashes": (b'Content-Type: multipart/mixed; a="' + b"\\" * 60_000 + b'\\"' * 30_000 + b"\n\n", 0),
    "blank lines": (REPORT + STATUS + b"\n" * 4_000_000, 0),
    "fields": (REPORT + STATUS + b"status:5\n" * 400_000, 0),
    "a hundred megabytes": (TOP + b"\n" + b"hello\n" * 17_000_000, 0),
    "secrets": (
        b"Subject: Postfix SMTP server: errors from a[1]\n\nTranscript of session follows.\n"
        b" In:  AUTH PLAIN " + b"abc " * 1000 + b"\n" + b" In:  xxx yyy zzz\n" * 100_000, 0,
    ),
}  # fmt: skip


def read_in_200_megabytes(data: bytes) -> tuple[int, float]:
    """Number of recipients and CPU seconds, from a process that may have 200 MB more than it has."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 200 * 2**20,) * 2)
            start = time.process_time()
            found = report.read(Message.of(data))
            assert all(one.address for one in found.recipients)
            os.write(writer, f"{len(found.recipients)} {time.process_time() - start}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        answer = answers.read()
    os.waitpid(pid, 0)
    assert answer, "it raised, or took more memory"
    recipients, seconds = answer.split()
    return int(recipients), float(seconds)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_sent_to_break_us_is_read_in_a_second_and_little_memory(name: str) -> None:
    data, expected = HOSTILE[name]
    recipients, seconds = read_in_200_megabytes(data)
    assert seconds < 1
    assert expected is None or recipients == expected


def test_the_limits_hold() -> None:
    assert len(scan(Message.of(HOSTILE["parts"][0])).parts) == PARTS_LIMIT
    (leaf,) = scan(Message.of(HOSTILE["nested multiparts"][0])).parts
    assert leaf.parameters[b"boundary"] == b"b%d" % NESTING_LIMIT


def quoted_the_slow_way(rest: bytes, start: int) -> tuple[bytes, int]:
    """RFC 5322 section 3.2.4, one byte after the other."""
    text, place = b"", start
    while place < len(rest) and rest[place : place + 1] != b'"':
        if rest[place : place + 1] == b"\\":
            place += 1
        text += rest[place : place + 1]
        place += 1
    return text, min(place, len(rest)) + 1


@given(st.text('\\";a', max_size=30))
def test_quoted_strings_end_where_they_end(text: str) -> None:
    assert _quoted(text.encode(), 0) == quoted_the_slow_way(text.encode(), 0)


@pytest.mark.parametrize("unit", [b'\\"', b"\\", b'"', b'x="\\";', b'\\""'])
def test_a_content_type_of_quotes_takes_no_longer_than_another(unit: bytes) -> None:
    """A thousand of them in a report took seconds, when each quote had the backslashes before it counted."""
    value = b'multipart/report; x="' + unit * (60_000 // len(unit))
    part = b"--b\nContent-Type: " + value + b"\n\nhi\n"
    data = b"Content-Type: multipart/report; boundary=b\n\n" + part * (2_000_000 // len(part))
    start = time.process_time()
    scan(Message.of(data))
    assert time.process_time() - start < 2, "0.4 s on a slow machine; 2.4 s were usual"
