"""`maildir PATH`: write the mail into a maildir, and never into it twice (maildir(5)).

The states of a delivery, and what a process finds that comes after one that was killed there:

    tmp/NAME being written              a leftover, shorter than the mail: the mail is written anew, under another name
    tmp/NAME whole and synced           the same
    new/NAME linked to it, new/ synced  the mail is there, as the leftover's second link tells even where a reader has
                                        moved it to cur/ since: nothing is written
    tmp/NAME unlinked                   the same, where new/NAME is still there; if not, the store knows (once.py)

NAME is made of the mail's key, so it is the same each time, and open(2) and link(2) refuse to make it twice. Where
tmp/NAME is there, the name of the file has process and thread as well: two at the same mail, an orphan of `postfix
stop` and its successor, never write to one file, so that neither can link what the other has half written. tmp/NAME
goes last, so that whoever comes after one that was killed there looks for leftovers, too.
"""

from __future__ import annotations

import errno
import os
from _thread import get_ident

from postroom.envelope import quote
from postroom.status import ConfigurationFault, Fault, deferred, sent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from postroom.delivery import Mail
    from postroom.status import Outcome

# A mailbox is its owner's alone, whatever the umask (virtual(8) and local(8) make theirs with the same modes).
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

TMP, NEW, CUR = "tmp", "new", "cur"

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Full: says so in Postfix's terms, since "mailbox full" and "system full" are watched for (RFC 3463, X.2.2 and X.3.1).
_FULL = {errno.EDQUOT: "4.2.2", errno.ENOSPC: "4.3.1"}

# What may not stand in a header line of ours: an address with a line end in it would write headers of its own.
_CONTROLS = bytes(b if b >= 32 and b != 127 else ord("?") for b in range(256))
# The year 2242: ten digits, so that no odd date makes a name too long, or one that sorts by luck.
_TIME_LIMIT = 2**33
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")


def deliver(words: tuple[str, ...], mail: Mail) -> Outcome:
    if len(words) != 2:
        raise ConfigurationFault(f"action maildir: expected one path, got {len(words) - 1} words")
    return deposit(checked(words[1]), mail, header_lines(mail))


def deposit(directory: str, mail: Mail, head: bytes) -> Outcome:
    """Write `head` and the mail as one file."""
    name = unique_name(mail)
    try:
        if _links(f"{directory}/{NEW}/{name}"):
            _sync(f"{directory}/{NEW}")
            _clear(directory, name)
        else:
            _write(directory, name, mail, head)
    except OSError as error:
        reason = f"maildir {directory}: {os.strerror(error.errno or 0)}"
        if error.errno in _FULL:
            return deferred(reason, _FULL[error.errno])
        raise Fault(reason) from error
    return sent("delivered to maildir")


def checked(path: str) -> str:
    """The directory, without a slash at its end. The path of a rule may hold strangers' text: no step leads upwards."""
    steps = path.rstrip("/").split("/")
    if not path.startswith("/") or len(steps) < 2 or "\0" in path or "." in steps or ".." in steps:
        raise ConfigurationFault(f"action maildir: {path[:200]!r}, expected an absolute path without . and .. in it")
    return "/".join(steps)


def unique_name(mail: Mail) -> str:
    """TIME.UNIQUE.HOST of maildir(5), the same whenever this delivery is tried.

    Readers number new mails by TIME, so it is when Postfix took the mail, from the Received line it wrote on top.
    """
    return f"{received_time(mail.message.head)}.R{mail.key().hex()}.{_host()}"


_hosts: list[str] = []


def _host() -> str:
    """The same for all of a process's life, were the host renamed meanwhile."""
    if not _hosts:
        _hosts.append(os.uname().nodename.replace("/", "\\057").replace(":", "\\072"))
    return _hosts[0]


def received_time(head: bytes) -> int:
    """Seconds since 1970 from the first Received field's `; Sun, 22 Nov 2026 15:04:54 +0100`, 0 where there is none."""
    start = 0 if head.startswith(b"Received:") else (b"\n" + head).lower().find(b"\nreceived:")
    end = start + 9
    while (end := head.find(b"\n", end)) >= 0 and head[end + 1 : end + 2] in (b" ", b"\t"):
        end += 1
    field = head[start:] if end < 0 else head[start:end]
    words = field.rpartition(b";")[2].replace(b",", b" ").replace(b":", b" ").split()
    try:
        _, day, month, year, hour, minute, second, zone = words[:8]
        offset = (int(zone[1:3]) * 60 + int(zone[3:5])) * (-60 if zone.startswith(b"-") else 60)
        days = _days(int(year), _MONTHS.index(month) + 1, int(day))
        seconds = days * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second) - offset
    except ValueError:
        return 0  # not as Postfix writes it; a name without a time is as unique
    return seconds if start >= 0 and 0 <= seconds < _TIME_LIMIT else 0


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of the Gregorian calendar; calendar and datetime cost a third of a start."""
    if month < 3:
        year, month = year - 1, month + 12
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month - 457) // 5 + day - 719469


def _links(path: str, size: int | None = None) -> int:
    """How many names the file has; 0 where there is none, or none of this size."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return 0
    return found.st_nlink if size is None or found.st_size == size else 0


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return  # another process at the same mail has cleared it away


def _write(directory: str, name: str, mail: Mail, head: bytes) -> None:
    temporary = f"{directory}/{TMP}/{name}"
    try:
        fd = _create(directory, temporary)
    except FileExistsError:
        _write_again(directory, name, mail, head)
    else:
        _finish(fd, temporary, directory, name, mail, head)


def _write_again(directory: str, name: str, mail: Mail, head: bytes) -> None:
    """After one who was killed, or is at it still. What such have left in tmp/ is removed; tmp/NAME at the end."""
    leftovers = _leftovers(directory, name)
    # A second link alone says nothing: a backup by hard links (rsnapshot, cp -al) makes one to what is half written.
    linked = max((_links(path, len(head) + mail.message.size) for path in leftovers), default=0) > 1
    for path in leftovers[1:]:
        _unlink(path)
    if linked:
        _sync(f"{directory}/{NEW}")
    else:
        temporary = f"{directory}/{TMP}/{name}.{os.getpid()}.{get_ident()}"
        _finish(os.open(temporary, _FLAGS, FILE_MODE), temporary, directory, name, mail, head)
    _clear(directory, name)


def _clear(directory: str, name: str) -> None:
    for path in reversed(_leftovers(directory, name)):
        _unlink(path)


def _leftovers(directory: str, name: str) -> list[str]:
    """tmp/NAME is the first."""
    try:
        found = [entry for entry in os.listdir(f"{directory}/{TMP}") if (entry + ".").startswith(name + ".")]
    except FileNotFoundError:
        return []
    return [f"{directory}/{TMP}/{entry}" for entry in sorted(found)]


def _finish(fd: int, temporary: str, directory: str, name: str, mail: Mail, head: bytes) -> None:
    """The content, and the name that readers look for."""
    try:
        _fill(fd, mail, head)
        _link(temporary, directory, name)
        _sync(f"{directory}/{NEW}")
    finally:
        _unlink(temporary)


def _fill(fd: int, mail: Mail, head: bytes) -> None:
    try:
        before = head
        for chunk in mail.message.chunks():
            _write_all(fd, before + chunk)
            before = b""
        _write_all(fd, before)
        os.fsync(fd)
    finally:
        os.close(fd)


def _link(temporary: str, directory: str, name: str) -> None:
    final = f"{directory}/{NEW}/{name}"
    try:
        try:
            os.link(temporary, final)
        except FileNotFoundError:
            _make_folders(directory)  # somebody has taken new/ away
            os.link(temporary, final)
    except FileExistsError:
        return  # another process at the same mail was faster; what stands in new/ is whole


def _create(directory: str, temporary: str) -> int:
    try:
        return os.open(temporary, _FLAGS, FILE_MODE)
    except FileNotFoundError:
        _make_folders(directory)
        return os.open(temporary, _FLAGS, FILE_MODE)


def _make_folders(directory: str) -> None:
    """tmp/ last: where it is, the others are."""
    for folder in (CUR, NEW, TMP):
        if not _links(f"{directory}/{folder}"):
            _make(f"{directory}/{folder}")


def _make(directory: str) -> None:
    """mkdir -p, each new directory made to last: a mail in one that a crash takes away would be lost."""
    parent = os.path.dirname(directory)
    if not _links(parent):
        _make(parent)
    try:
        os.mkdir(directory, DIRECTORY_MODE)
    except FileExistsError:
        return  # another delivery is making it, too
    _sync(parent)


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def header_lines(mail: Mail) -> bytes:
    """What local(8) writes on top when it delivers (src/global/mail_copy.c), in its order."""
    return (
        b"Return-Path: <%b>\n" % _header_value(mail.sender)
        + b"X-Original-To: %b\n" % _header_value(mail.original_recipient)
        + b"Delivered-To: %b\n" % _header_value(mail.recipient)
    )


def _header_value(address: str) -> bytes:
    return quote(address).encode("utf-8", "surrogateescape").translate(_CONTROLS)
