"""LMTP as a server speaks it: however the bytes are cut, whatever they are, as many replies as were asked for."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from postroom.actions.smtp import encoded
from postroom.wire.content import ABORTED, Content, Counted, Dotted, unix_lines
from postroom.wire.events import CLOSED, NEED_DATA
from postroom.wire.lmtp import COMMAND_LIMIT, ERRORS_LIMIT, RECIPIENTS_LIMIT, REPLY_LIMIT, Session
from postroom.wire.paths import original, path, unquoted, xtext
from postroom.wire.transaction import Transaction

HELLO = b"LHLO client.test\r\n"
MAIL = b"MAIL FROM:<a@client.test>\r\n"
RCPT = b"RCPT TO:<b@lab.test>\r\n"


class Desk:
    """A server at which mail is always taken: what came, and what was said."""

    def __init__(self, size_limit: int = 1000) -> None:
        self.session = Session("lab.test", size_limit)
        self.said = self.session.take()
        self.mails: list[tuple[str, list[str], bytes]] = []
        self.last: Transaction | None = None
        self.body = b""
        self.closed = False

    def feed(self, *pieces: bytes) -> Desk:
        """Read these. An empty one, as the last, is the end of the connection."""
        for piece in [*filter(None, pieces[:-1]), *pieces[-1:]]:
            self.session.receive_data(piece)
            while not self.closed and (event := self.session.next_event()) is not NEED_DATA:
                self._take(event)
            self.said += self.session.take()
        return self

    def _take(self, event: object) -> None:
        if isinstance(event, Content):
            self.body += event.data
        elif event is ABORTED:
            self.body = b""
        elif event is CLOSED:
            self.closed = True
        else:
            assert isinstance(event, Transaction)
            self.last = event
            self.mails.append((event.sender, [rcpt.address for rcpt in event.recipients], self.body))
            self.body = b""
            self.session.finish([f"250 2.0.0 {rcpt.address}" for rcpt in event.recipients])

    @property
    def codes(self) -> list[int]:
        """Of each reply, multi-line ones once, the greeting left out."""
        return [int(line[:3]) for line in self.said.split(b"\r\n")[1:-1] if line[3:4] != b"-"]

    @property
    def answer(self) -> str:
        return self.said.split(b"\r\n")[-2].decode()

    def state(self) -> tuple[object, ...]:
        return self.mails, self.said, self.closed, self.body


def whole(data: bytes, size_limit: int = 1000) -> Desk:
    return Desk(size_limit).feed(data, b"")


def message(content: bytes) -> bytes:
    return HELLO + MAIL + RCPT + b"DATA\r\n" + content


# Conversations


def test_a_mail() -> None:
    desk = whole(HELLO + MAIL + RCPT + b"RCPT TO:<c@lab.test>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n")
    assert desk.said.startswith(b"220 lab.test LMTP ")
    assert desk.codes == [250, 250, 250, 250, 354, 250, 250, 221]
    assert desk.mails == [("a@client.test", ["b@lab.test", "c@lab.test"], b"Subject: x\n\nx\n")]
    assert desk.closed


def test_what_is_announced() -> None:
    lines = whole(HELLO).said.decode().split("\r\n")[1:-1]
    assert [line[4:].split()[0] for line in lines[1:]] == [
        "PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN", "XFORWARD", "SIZE",
    ]  # fmt: skip
    assert [line[3] for line in lines] == ["-"] * 8 + [" "]


STREAM = (
    b"lhlo x\r\nXFORWARD NAME=spike.test ADDR=192.0.2.7\r\nXFORWARD IDENT=4XyzQ HELO=+5Bx+5D\r\n"
    + MAIL
    + RCPT
    + b"DATA\r\n..\r\n\r\n..\r\n...x\r\n\r.\n\r\r\n.\r\n"
    + b"BDAT 4\r\na\r\nb"
    + MAIL
    + RCPT
    + b"BDAT 3\r\nx\r\r\nBDAT 5 LAST\r\n\ny\r\n\rNOOP\r\n"
    + MAIL
    + RCPT
    + b"BDAT 3\r\nabc\r\nRSET\r\nQUIT\r\n"
)


def test_every_split_into_three() -> None:
    expected = whole(STREAM).state()
    for first in range(len(STREAM)):
        for second in range(first, len(STREAM), 5):
            assert Desk().feed(STREAM[:first], STREAM[first:second], STREAM[second:], b"").state() == expected
    assert Desk().feed(*[STREAM[n : n + 1] for n in range(len(STREAM))], b"").state() == expected


@given(st.lists(st.sampled_from([
    HELLO, MAIL, RCPT, b"DATA\r\n", b"BDAT 2\r\n", b"BDAT 3 LAST\r\n", b"RSET\r\n", b"NOOP x\r\n", b"\r\n", b".\r\n",
    b"..x\r\n", b"\r", b"\n", b"x" * 600, b"BDAT x\r\n", b"EHLO x\r\n", b"QUIT\r\n", b"\xff\0", b"VRFY a\r\n",
]), max_size=25), st.randoms(use_true_random=False))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_whatever_comes_however_it_is_cut(parts: list[bytes], chance: random.Random) -> None:
    data = b"".join(parts)
    expected = whole(data).state()
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(6)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert Desk().feed(*[piece for piece in pieces if piece], b"").state() == expected


@given(st.binary(max_size=400))
@example(b"\r\n" * 30)
@settings(deadline=None)
def test_noise_ends_in_order(data: bytes) -> None:
    desk = whole(data)
    assert desk.closed
    assert desk.mails == []


# Content


LINES = st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"")), max_size=8)


@given(LINES, st.lists(st.integers(0, 200), max_size=4))
@settings(deadline=None)
def test_what_is_sent_is_what_is_read(lines: list[bytes], cuts: list[int]) -> None:
    """By the encoder of relay, so that what goes out by the one comes in by the other."""
    text = b"".join(line + b"\n" for line in lines)
    data = b"".join(encoded(iter([text]))) + b"NOOP\r\n"
    places = sorted({min(cut, len(data)) for cut in cuts})
    content, found, rest = Dotted(), b"", bytearray()
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        rest += data[start:end]
        if not content.ended:
            found += content.take(rest)
    assert content.ended
    assert (found, bytes(rest)) == (text, b"NOOP\r\n")


def reference(data: bytes) -> bytes:
    """One byte after the other: CRLF ends a line, nothing else does."""
    found, position = bytearray(), 0
    while position < len(data):
        if data[position : position + 2] == b"\r\n":
            found += b"\n"
            position += 2
        else:
            found += b" " if data[position] in b"\r\n" else data[position : position + 1]
            position += 1
    return bytes(found)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"x", b" "]), max_size=12).map(b"".join))
@settings(deadline=None)
def test_line_ends(data: bytes) -> None:
    assert unix_lines(data) == reference(data)


@given(
    st.lists(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"x"]), max_size=5).map(b"".join), max_size=5),
    st.integers(0, 30),
)
@settings(deadline=None)
def test_chunks(chunks: list[bytes], cut: int) -> None:
    content, found = Counted(), b""
    for number, chunk in enumerate(chunks or [b""]):
        content.begin(len(chunk), number == len(chunks or [b""]) - 1)
        for piece in (chunk[:cut], chunk[cut:]):
            found += content.take(bytearray(piece)) if not content.ended else b""
    expected = reference(b"".join(chunks))
    assert found == expected + (b"" if not expected or b"".join(chunks).endswith(b"\r\n") else b"\n")


SMUGGLED = b"MAIL FROM:<boss@lab.test>\r\nRCPT TO:<b@lab.test>\r\nDATA\r\nforged\r\n.\r\n"


@pytest.mark.parametrize(
    "end",
    [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n\0.\r\n", b"\n\n.\r\n", b"\r\r\n.\r"],
)
def test_nothing_but_crlf_dot_crlf_ends_a_mail(end: bytes) -> None:
    """SMTP smuggling: what follows another "end" is text of the same mail, not a mail of its own."""
    desk = whole(message(b"Subject: x\r\n\r\nx" + end + SMUGGLED))
    assert len(desk.mails) == 1
    ((_, _, text),) = desk.mails
    assert b"boss@lab.test" in text
    assert b"\r" not in text
    # Nor is it an end for the next server, which is sent the text with its dots doubled.
    assert not any(line == b"." for line in text.split(b"\n"))


def test_dots() -> None:
    assert whole(message(b".\r\n")).mails[0][2] == b""
    assert whole(message(b"..\r\n.x\r\nx.\r\n.\r\n")).mails[0][2] == b".\nx\nx.\n"
    assert whole(message(b"\r\n.\r\n")).mails[0][2] == b"\n"


def test_bytes_of_any_kind_are_kept() -> None:
    content = bytes(byte for byte in range(256) if byte not in b"\r\n") + b"\n"
    assert whole(message(content.replace(b"\n", b"\r\n") + b".\r\n")).mails[0][2] == content


# Chunking


def test_chunks_make_one_mail_and_the_last_one_is_answered_for_each_recipient() -> None:
    stream = b"RCPT TO:<c@lab.test>\r\nBDAT 7\r\nab\r\n.\r\nBDAT 0\r\nBDAT 3 LAST\r\ncd\rNOOP\r\n"
    desk = whole(HELLO + MAIL + RCPT + stream)
    assert desk.mails[0][2] == b"ab\n.\ncd \n"
    assert desk.codes == [250, 250, 250, 250, 250, 250, 250, 250, 250]


def test_a_refused_chunk_is_read_past() -> None:
    assert whole(HELLO + b"BDAT 6\r\nQUIT\r\nNOOP\r\n").codes == [250, 503, 250]
    assert whole(HELLO + MAIL + b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n").codes == [250, 250, 503, 250]


def test_data_does_not_mix_with_chunks() -> None:
    desk = whole(HELLO + MAIL + RCPT + b"BDAT 3\r\nabcDATA\r\nRCPT TO:<c@lab.test>\r\nBDAT 0 LAST\r\n")
    assert desk.codes == [250, 250, 250, 250, 503, 503, 250]
    assert desk.mails[0][2] == b"abc\n"


@pytest.mark.parametrize("words", [b"", b"x", b"-1", b"5 NEXT", b"5 LAST LAST", b"1" * 21, b"0x10", "٣".encode()])
def test_a_chunk_without_a_length_ends_the_connection(words: bytes) -> None:
    desk = whole(HELLO + MAIL + RCPT + b"BDAT " + words + b"\r\nQUIT\r\n")
    assert desk.answer.startswith("521 5.5.4 ")
    assert desk.mails == []


def test_a_huge_chunk_costs_no_memory() -> None:
    desk = Desk(1000).feed(HELLO + MAIL + RCPT + b"BDAT 99999999999999999999 LAST\r\n")
    for _ in range(200):
        desk.feed(b"x" * 10000)
    assert len(desk.session._buffer) == 0
    assert desk.body == b""


# Too big


def test_a_declared_size_past_the_limit_is_refused_at_once() -> None:
    assert whole(HELLO + b"MAIL FROM:<> SIZE=1001\r\n").answer.startswith("552 5.3.4 ")
    assert whole(HELLO + b"MAIL FROM:<> SIZE=1000\r\n").answer.startswith("250 ")


@pytest.mark.parametrize("size", [999, 1000, 1001, 5000])
def test_the_size_that_counts_is_the_real_one(size: int) -> None:
    for data in (
        b"DATA\r\n" + b"x" * (size - 1) + b"\r\n.\r\n",
        b"BDAT %d LAST\r\n" % (size + 1) + b"x" * (size - 1) + b"\r\n",
    ):
        desk = Desk(1000)
        for start in range(0, len(stream := HELLO + MAIL + RCPT + RCPT + data + b"NOOP\r\n"), 700):
            desk.feed(stream[start : start + 700])
        desk.feed(b"")
        if size <= 1000:
            assert [code for code in desk.codes if code != 354] == [250] * 7
            assert len(desk.mails[0][2]) == size
        else:
            assert [code for code in desk.codes if code != 354] == [250, 250, 250, 250, 552, 552, 250]
            assert desk.mails == []


def test_chunks_that_are_too_much_together() -> None:
    desk = whole(HELLO + MAIL + RCPT + RCPT + (b"BDAT 600\r\n" + b"x" * 600) * 3 + b"BDAT 0 LAST\r\n" + MAIL)
    assert desk.codes == [250, 250, 250, 250, 250, 552, 552, 552, 552, 250]


def test_a_mail_that_cannot_be_kept_is_read_to_its_end() -> None:
    desk = Desk().feed(message(b"abc\r\n"))
    desk.session.spoil("452 4.3.1 no room")
    desk.body = b""  # given up by who says so
    desk.feed(b"def\r\n" * 10, b".\r\nNOOP\r\n")
    assert desk.mails == []
    assert desk.codes[-2:] == [452, 250]
    desk.feed(MAIL + RCPT + b"DATA\r\nx\r\n.\r\n")
    assert desk.mails[0][2] == b"x\n", "what could not be kept is no part of the next mail"


# Order


@pytest.mark.parametrize(
    ("commands", "codes"),
    [
        (MAIL, [503]),
        (b"XFORWARD NAME=x\r\n", [503]),
        (HELLO + RCPT, [250, 503]),
        (HELLO + b"DATA\r\n", [250, 503]),
        (HELLO + MAIL + b"DATA\r\n", [250, 250, 503]),
        (HELLO + MAIL + MAIL, [250, 250, 503]),
        (HELLO + MAIL + b"XFORWARD NAME=x\r\n", [250, 250, 503]),
        (HELLO + MAIL + RCPT + b"RSET\r\n" + RCPT, [250, 250, 250, 250, 503]),
        (HELLO + MAIL + RCPT + HELLO + b"DATA\r\n", [250, 250, 250, 250, 503]),
        (HELLO + MAIL + RCPT + b"DATA now\r\n", [250, 250, 250, 501]),
        (b"EHLO x\r\nHELO x\r\n" + HELLO, [500, 500, 250]),
        (b"LHLO\r\n", [501]),
        (
            b"NOOP\r\nnoop x\r\nVrFy a\r\nRSET\r\nAUTH PLAIN\r\nSTARTTLS\r\nEXPN x\r\n\r\n",
            [250, 250, 252, 250] + [500] * 4,
        ),
        (HELLO + b"NOOP\nQUIT\r\n", [250, 500]),
    ],
)
def test_order(commands: bytes, codes: list[int]) -> None:
    assert whole(commands).codes == codes


def test_the_enhanced_code_of_a_reply_is_of_its_class() -> None:
    """RFC 2034; the replies to connecting and to LHLO have none."""
    stream = (
        HELLO
        + b"x\r\nRCPT\r\nMAIL\r\nMAIL FROM:<> X=1\r\n"
        + MAIL
        + RCPT
        + b"RCPT TO:<>\r\nDATA\r\n.\r\nNOOP\r\nQUIT\r\n"
    )
    for line in whole(stream).said.decode().split("\r\n")[10:-1]:
        code, status, _ = line.split(" ", 2)
        assert code == "354" or status[0] == code[0], line


def test_a_reply_stays_one_line_of_a_length_that_may_be_sent() -> None:
    session = Session("lab.test")
    session.receive_data(message(b".\r\n"))
    while not isinstance(event := session.next_event(), Transaction):
        assert event is not NEED_DATA
    session.take()
    session.finish(["550 5.1.1 a\r\n250 forged " + "ü" * 600])
    said = session.take()
    assert said.count(b"\r\n") == 1
    assert said.startswith(b"550 5.1.1 a 250 forged ")
    assert len(said) <= REPLY_LIMIT + 2
    said.decode()


def test_one_reply_for_each_recipient_or_none() -> None:
    session = Session("lab.test")
    session.receive_data(message(b".\r\n"))
    while not isinstance(session.next_event(), Transaction):
        pass
    with pytest.raises(ValueError, match="one reply for each recipient"):
        session.finish(["250 2.0.0 a", "250 2.0.0 b"])


def test_nothing_is_read_on_before_the_replies() -> None:
    session = Session("lab.test")
    session.receive_data(message(b".\r\nQUIT\r\n"))
    events = []
    while (event := session.next_event()) is not NEED_DATA:
        events.append(event)
    assert isinstance(events[-1], Transaction)
    session.take()
    session.finish(["451 4.3.0 later"])
    assert session.next_event() is CLOSED
    assert session.take() == b"451 4.3.0 later\r\n221 2.0.0 bye\r\n"


def test_421_for_a_recipient_closes() -> None:
    session = Session("lab.test")
    session.receive_data(message(b".\r\nNOOP\r\n"))
    while session.next_event() is not NEED_DATA:
        pass
    session.finish(["421 4.3.2 too busy"])
    assert session.next_event() is CLOSED


@pytest.mark.parametrize("cut", range(1, 8))
def test_the_end_anywhere(cut: int) -> None:
    """A client that goes away has handed nothing over."""
    data = HELLO + MAIL + RCPT + b"DATA\r\nx\r\n.\r\n"
    desk = whole(data[:-cut])
    assert desk.closed
    assert desk.mails == []
    assert desk.body == b""


# Draining


def test_shutting_down_finishes_the_mail_that_is_coming_and_takes_no_other() -> None:
    desk = Desk().feed(message(b"x\r\n"))
    desk.session.draining = True
    assert not desk.session.idle
    desk.feed(b".\r\n" + MAIL)
    assert len(desk.mails) == 1
    assert desk.closed
    assert desk.answer == "250 2.0.0 b@lab.test"


@pytest.mark.parametrize("stream", [MAIL, MAIL + RCPT, MAIL + RCPT + b"DATA\r\n"])
def test_shutting_down_says_so(stream: bytes) -> None:
    *before, last = stream.splitlines(keepends=True)
    desk = Desk().feed(HELLO + b"".join(before))
    assert desk.session.idle == (not before)
    desk.session.draining = True
    desk.feed(last)
    assert desk.answer.startswith("421 4.3.2 ")
    assert desk.closed


# Limits


def test_a_command_too_long_is_refused_and_not_kept() -> None:
    for length, code in ((COMMAND_LIMIT, 250), (COMMAND_LIMIT + 1, 450)):
        line = b"NOOP " + b"x" * (length - 5) + b"\r\n"
        assert whole(line + b"QUIT\r\n").codes == [code, 221]
        assert Desk().feed(*[line[n : n + 100] for n in range(0, len(line), 100)], b"QUIT\r\n").codes == [code, 221]
    desk = Desk()
    for _ in range(100):
        desk.feed(b"x" * 10000)
    assert len(desk.session._buffer) <= COMMAND_LIMIT + 10000


def test_too_many_errors() -> None:
    desk = whole(HELLO + b"x\r\n" * 100)
    assert desk.codes == [250] + [500] * (ERRORS_LIMIT - 1) + [421]
    assert desk.closed


def test_recipients_past_the_limit_are_for_the_next_mail() -> None:
    desk = whole(HELLO + MAIL + RCPT * (RECIPIENTS_LIMIT + 2 * ERRORS_LIMIT) + b"DATA\r\n.\r\n", 10**6)
    assert desk.codes.count(452) == 2 * ERRORS_LIMIT
    assert len(desk.mails[0][1]) == RECIPIENTS_LIMIT
    assert desk.codes[-RECIPIENTS_LIMIT:] == [250] * RECIPIENTS_LIMIT


# Addresses and parameters


@pytest.mark.parametrize(
    ("text", "address", "rest"),
    [
        (b"<a@example.com>", b"a@example.com", b""),
        (b" <a@example.com> SIZE=1", b"a@example.com", b"SIZE=1"),
        (b"<>", b"", b""),
        (b'<"a b"@example.com> X', b"a b@example.com", b"X"),
        (b'<"a>b\\"c"@example.com>', b'a>b"c@example.com', b""),
        (b'<"a@b"@example.com>', b"a@b@example.com", b""),
        (b"<a\\ b@example.com>", b"a b@example.com", b""),
        (b"<@one.test,@two.test:a@three.test>", b"a@three.test", b""),
        (b"<postmaster>", b"postmaster", b""),
        (b"<a@[192.0.2.1]>", b"a@[192.0.2.1]", b""),
        (b"<\xff\xfe@example.com>", b"\xff\xfe@example.com", b""),
        (b"<-f@example.com>", b"-f@example.com", b""),
        (b"<@example.com>", b"@example.com", b""),
        (b'<"a\tb"@example.com>', b"a\tb@example.com", b""),
        (b'<"a\\\x01b"@example.com>', b"a\x01b@example.com", b""),
        (b'<"\\\x7f"@example.com> X', b"\x7f@example.com", b"X"),
    ],
)
def test_paths(text: bytes, address: bytes, rest: bytes) -> None:
    assert path(text) == (address, rest)


@pytest.mark.parametrize(
    "text",
    [b"", b"a@example.com", b"<a@example.com", b"<a b@example.com>", b"<a@example.com>x", b'<"a@example.com>', b"<a\\>",
     b"<<a@example.com>>", b"<a\n@example.com>", b"<a\0@example.com>", b'<"a\\\r"@example.com>'],
)  # fmt: skip
def test_what_is_no_path(text: bytes) -> None:
    assert path(text) is None


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=20))
@settings(deadline=None)
def test_any_local_part_survives(local: str) -> None:
    """As Postfix writes it: quoted where it must be."""
    from postroom.envelope import quote

    address = f"{local}@example.com"
    assert path(f"<{quote(address)}>".encode()) == (address.encode(), b"")


@given(st.binary(max_size=40))
@settings(deadline=None)
def test_xtext(data: bytes) -> None:
    written = b"".join(bytes([b]) if 33 <= b <= 126 and b not in b"+=" else b"+%02X" % b for b in data)
    assert xtext(written) == data
    assert xtext(data) is None or b"+" not in data or len(xtext(data) or b"") < len(data)


def test_the_original_recipient() -> None:
    assert original(b"rfc822;a+2Bb@example.com") == b"a+b@example.com"
    assert original(b'RFC822;"a+20b"@example.com') == b"a b@example.com"
    assert original(b"utf-8;\\x{FC}+2Bx@example.com") == "ü+x@example.com".encode()
    assert original("utf-8;ü@example.com".encode()) == "ü@example.com".encode()
    assert original(b"rfc822;a+09+7Fb@example.com") == b"a\t\x7fb@example.com"
    assert original(b"utf-8;a\\x{1}b@example.com") == b"a\x01b@example.com"
    assert original(b"x400;anything") == b""
    for wrong in (
        b"",
        b"a@example.com",
        b"rfc822;",
        b"rfc822;+0Aa",
        b";a",
        b"rfc822;+4",
        b"x400;+00a",
        b"utf-8;\\x{D800}a",
        b"utf-8;\\x{A}a",
        b"utf-8;\\x{",
    ):
        assert original(wrong) is None
    assert unquoted(b'"') is None


def test_what_postfix_says_of_a_mail() -> None:
    desk = whole(
        HELLO
        + b"XFORWARD NAME=spike.test ADDR=IPV6:2001:db8::1 PORT=[UNAVAILABLE]\r\n"
        + b"XFORWARD PROTO=ESMTP HELO=a+3Db IDENT=4XyzQ SOURCE=REMOTE\r\n"
        + b"MAIL FROM:<a@client.test> SIZE=345 BODY=8BITMIME SMTPUTF8 RET=hdrs ENVID=QQ+2B1\r\n"
        + b"RCPT TO:<b@lab.test> NOTIFY=SUCCESS,delay ORCPT=rfc822;B+2Bx@lab.test\r\n"
        + b"RCPT TO:<c@lab.test> NOTIFY=NEVER\r\n"
        + b"DATA\r\n.\r\n"
    )
    mail = desk.last
    assert mail is not None
    assert (mail.size, mail.smtputf8, mail.ret, mail.envid) == (345, True, "HDRS", "QQ+1")
    assert mail.forwarded == {
        "NAME": "spike.test", "ADDR": "IPV6:2001:db8::1", "PORT": "", "PROTO": "ESMTP", "HELO": "a=b", "IDENT": "4XyzQ",
        "SOURCE": "REMOTE",
    }  # fmt: skip
    first, second = mail.recipients
    assert (first.original, first.orcpt) == ("B+x@lab.test", "rfc822;B+2Bx@lab.test")
    assert first.notify == {"SUCCESS", "DELAY"}
    assert (second.original, second.notify) == ("", {"NEVER"})


@pytest.mark.parametrize(
    "orcpt", [b"", b"rfc822;", b"rfc822;a+0Ab@x.test", b"rfc822;+4", b"x;+00a", b"utf-8;\\x{0}", b"b@lab.test"]
)
def test_an_original_recipient_that_is_none_is_no_reason_to_refuse_mail(orcpt: bytes) -> None:
    desk = whole(HELLO + MAIL + b"RCPT TO:<b@lab.test> NOTIFY=SUCCESS ORCPT=" + orcpt + b"\r\nDATA\r\n.\r\n")
    assert desk.codes == [250, 250, 250, 354, 250]
    assert desk.last is not None
    (rcpt,) = desk.last.recipients
    assert (rcpt.address, rcpt.original, rcpt.orcpt) == ("b@lab.test", "", "")
    assert rcpt.notify == {"SUCCESS"}


@pytest.mark.parametrize("envid", [b"", b"+4", b"a+"])
def test_an_envelope_id_that_is_none_is_no_reason_to_refuse_mail(envid: bytes) -> None:
    desk = whole(HELLO + b"MAIL FROM:<a@client.test> ENVID=" + envid + b"\r\n" + RCPT + b"DATA\r\n.\r\n")
    assert desk.codes == [250, 250, 250, 354, 250]
    assert desk.last is not None
    assert desk.last.envid == ""


@given(st.binary(max_size=30).filter(lambda data: b"\r\n" not in data))
@settings(deadline=None, max_examples=200)
def test_nothing_in_mail_or_rcpt_bounces_what_postfix_accepted(noise: bytes) -> None:
    for command in (b"MAIL FROM:", b"MAIL FROM:<> ", b"MAIL FROM:<> RET="):
        assert whole(HELLO + command + noise + b"\r\n").codes[1] in (250, 450, 455)
    for command in (b"RCPT TO:", b"RCPT TO:<b@lab.test> ", b"RCPT TO:<b@lab.test> NOTIFY="):
        assert whole(HELLO + MAIL + command + noise + b"\r\n").codes[2] in (250, 450, 455)


def test_what_was_forwarded_is_for_one_mail() -> None:
    desk = whole(HELLO + b"XFORWARD IDENT=one\r\n" + (MAIL + RCPT + b"DATA\r\n.\r\n") * 2)
    assert len(desk.mails) == 2
    assert desk.last is not None
    assert desk.last.forwarded == {}


def test_a_stranger_writes_no_lines_through_xtext() -> None:
    desk = whole(HELLO + b"XFORWARD HELO=a+0D+0Ab\r\nMAIL FROM:<> ENVID=a+0AX:+20y\r\n" + RCPT + b"DATA\r\n.\r\n")
    assert desk.last is not None
    assert desk.last.forwarded["HELO"] == "a b"
    assert desk.last.envid == "a X: y"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (b"MAIL FROM:a@client.test", "450 4.1.7"),
        (b"MAIL TO:<a@client.test>", "450 4.1.7"),
        (b"MAIL", "450 4.1.7"),
        (b"MAIL FROM:<> SIZE=x", "455 4.5.4"),
        (b"MAIL FROM:<> SIZE", "455 4.5.4"),
        (b"MAIL FROM:<> SIZE=1 SIZE=2", "455 4.5.4"),
        (b"MAIL FROM:<> RET=ALL", "455 4.5.4"),
        (b"MAIL FROM:<> BODY=BINARYMIME", "455 4.5.4"),
        (b"MAIL FROM:<> SMTPUTF8=yes", "455 4.5.4"),
        (b"MAIL FROM:<> AUTH=<>", "455 4.5.4"),
        (b"MAIL FROM:<> \xff=1", "455 4.5.4"),
    ],
)
def test_what_is_wrong_in_mail(command: bytes, code: str) -> None:
    assert whole(HELLO + command + b"\r\n").answer.startswith(code)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (b"RCPT TO:<>", "450 4.1.3"),
        (b"RCPT TO:b@lab.test", "450 4.1.3"),
        (b"RCPT TO:<b@lab.test> NOTIFY=NEVER,SUCCESS", "455 4.5.4"),
        (b"RCPT TO:<b@lab.test> NOTIFY=", "455 4.5.4"),
        (b"RCPT TO:<a\rb@lab.test>", "450 4.1.3"),
        (b"RCPT TO:<b@lab.test> X=1", "455 4.5.4"),
    ],
)
def test_what_is_wrong_in_rcpt(command: bytes, code: str) -> None:
    assert whole(HELLO + MAIL + command + b"\r\n").answer.startswith(code)


def test_what_is_wrong_in_xforward() -> None:
    for words in (b"NAME", b"NAME=+4", b"OTHER=x", b"\xff=x"):
        assert whole(HELLO + b"XFORWARD " + words + b"\r\n").answer.startswith("501 5.5.4")


# A client that does as it likes: the replies are always as many as were asked for.


class Clients(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(200)
        self.expected = 0  # replies
        self.hello = self.mail = self.chunks = False
        self.recipients = 0
        self.size = 0
        self.errors = 0

    def say(self, data: bytes, replies: int = 1) -> None:
        cut = len(data) // 2
        self.desk.feed(data[:cut], data[cut:]) if cut else self.desk.feed(data)
        self.expected += replies

    def wrong(self) -> None:
        self.errors += 1

    def forget(self) -> None:
        self.mail = self.chunks = False
        self.recipients = self.size = 0

    @rule()
    def lhlo(self) -> None:
        self.say(HELLO)
        self.hello = True
        self.forget()

    @rule()
    def sender(self) -> None:
        self.say(MAIL)
        if self.hello and not self.mail:
            self.mail = True
        else:
            self.wrong()

    @rule()
    def recipient(self) -> None:
        self.say(RCPT)
        if self.mail and not self.chunks:
            self.recipients += 1
        else:
            self.wrong()

    @rule(text=st.sampled_from([b"", b"x\r\n", b"..\r\n", b"x" * 90 + b"\r\n", b"x" * 300 + b"\r\n"]))
    def data(self, text: bytes) -> None:
        if self.recipients and not self.chunks:
            self.say(b"DATA\r\n" + text + b".\r\n", 1 + self.recipients)
            assert (
                len(self.desk.mails) == 0 or len(text) > 200 or self.desk.mails[-1][2].count(b"\n") == text.count(b"\n")
            )
            self.forget()
        else:
            self.say(b"DATA\r\n")
            self.wrong()

    @rule(size=st.sampled_from([0, 5, 90, 150]), last=st.booleans())
    def chunk(self, size: int, last: bool) -> None:
        if not self.recipients:
            self.say(b"BDAT %d%b\r\n" % (size, b" LAST" if last else b"") + b"y" * size)
            self.wrong()
            return
        before = len(self.desk.mails)
        self.size += size
        self.chunks = True
        self.say(b"BDAT %d%b\r\n" % (size, b" LAST" if last else b"") + b"y" * size, self.recipients if last else 1)
        if last:
            taken = self.size + (1 if self.size else 0) <= 200
            assert (len(self.desk.mails) == before + 1) == taken
            self.forget()

    @rule()
    def reset(self) -> None:
        self.say(b"RSET\r\n")
        self.forget()

    @rule()
    def noise(self) -> None:
        self.say(b"\xffwhat\r\n")
        self.wrong()

    @precondition(lambda self: self.desk.closed)
    @rule()
    def again(self) -> None:
        self.__init__()  # type: ignore[misc]  # a new connection

    @invariant()
    def as_many_replies_as_were_asked_for(self) -> None:
        assert self.desk.closed == (self.errors >= ERRORS_LIMIT)
        if not self.desk.closed:
            assert len(self.desk.codes) == self.expected


# A machine under load is slow to draw, too.
Clients.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestClients = Clients.TestCase
