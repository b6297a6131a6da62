"""postconf(1): ask Postfix what its configuration says, and set main.cf parameters.

postconf answers a question about something that does not exist with exit status 0, nothing on standard output and a
warning on standard error, so the output is judged here, not the status. A relative directory after -c makes several
Postfix commands fail without a word (before 3.8), so the directory is always made absolute.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

# Where distributions put Postfix's commands; a user's PATH, or cron's, often lacks them.
COMMAND_DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/lib/sendmail")
DEFAULT_CONFIG_DIRECTORY = "/etc/postfix"
# postconf reads two files; longer than this means a hanging network map or file system.
COMMAND_SECONDS = 60
SETTLED_SECONDS = 60


class PostconfError(Exception):
    """postconf could not be run, or said that the configuration is wrong; the text is one line."""


def command(name: str) -> str:
    """The absolute path of a Postfix command; PostconfError when Postfix is not installed."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *COMMAND_DIRECTORIES))
    found = shutil.which(name, path=path)
    if found is None:
        raise PostconfError(f"{name}: not found; install Postfix (Debian: apt-get install postfix)")
    return found


def settle(main: Path) -> None:
    """Make a private main.cf look old. Postfix reads one changed in the last second again and again until it is older
    ("pausing to let file cool down"), two seconds for each process; a file that nobody else edits can do without."""
    past = time.time() - SETTLED_SECONDS
    os.utime(main, (past, past))


def one_line(text: str) -> str:
    """What a Postfix command wrote to standard error, as one line."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


class Postconf:
    """The configuration in one directory, as postconf(1) reads it."""

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        """Without a directory: the one that Postfix was built with, or that MAIL_CONFIG names."""
        self.program = command("postconf")
        self.directory = Path(directory).absolute() if directory is not None else self._default_directory()

    def _default_directory(self) -> Path:
        named = os.environ.get("MAIL_CONFIG")
        if named:
            return Path(named).absolute()
        # -d reads no file, so it also answers on a host whose main.cf is not there yet.
        answer = self._run_bare("-dh", "config_directory").strip()
        return Path(answer or DEFAULT_CONFIG_DIRECTORY)

    def _run_bare(self, *arguments: str) -> str:
        """Run postconf, return its standard output; its own words in a PostconfError when it fails."""
        try:
            done = subprocess.run(
                [self.program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                timeout=COMMAND_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PostconfError(f"{self.program}: {error}") from error
        if done.returncode != 0:
            raise PostconfError(one_line(done.stderr) or f"{self.program}: exit status {done.returncode}")
        return done.stdout

    def run(self, *arguments: str) -> str:
        """`postconf -c DIRECTORY arguments`: its standard output."""
        return self._run_bare("-c", str(self.directory), *arguments)

    # Parameters

    def get(self, name: str) -> str:
        """The value in force, as written; PostconfError for a name that Postfix does not know."""
        return self._value(name, "-h", name)

    def expanded(self, name: str) -> str:
        """The value in force with every $name in it replaced (Postfix 2.10 and later)."""
        return self._value(name, "-xh", name)

    def default(self, name: str) -> str:
        """The built-in value; main.cf is not looked at."""
        answer = self._run_bare("-dh", name)
        if not answer:
            raise PostconfError(f"{name}: unknown parameter")
        return answer.rstrip("\n")

    def _value(self, name: str, *arguments: str) -> str:
        answer = self.run(*arguments)
        # An empty value is an empty line; an unknown parameter is no line at all.
        if not answer:
            raise PostconfError(f"{name}: unknown parameter")
        return answer.rstrip("\n")

    def explicit(self) -> dict[str, str]:
        """What main.cf sets, by name, with the text of the value on one line."""
        pairs = (line.partition(" =") for line in self.run("-n").splitlines())
        return {name: value.strip() for name, equals, value in pairs if equals}

    def seconds(self, name: str) -> float:
        """A time parameter in seconds; postconf(5): the units are s m h d w, and none means seconds here."""
        return seconds(self.expanded(name))

    def set(self, values: Mapping[str, str]) -> None:
        """`postconf -e`: set main.cf parameters; for wiring, which must not touch another byte, see maincf."""
        for name, value in values.items():
            if "\n" in value:
                raise PostconfError(f"{name}: a value on several lines cannot be set by postconf")
        if values:
            self.run("-e", *(f"{name}={value}" for name, value in values.items()))

    # master.cf

    def services(self, pattern: str = "") -> list[str]:
        """`postconf -M`: one line a service; empty `{}` arguments are not shown, so never write this back."""
        return self._logical_lines(self.run("-M", *([pattern] if pattern else [])))

    def service_parameters(self, pattern: str = "") -> dict[str, str]:
        """`postconf -P`: what -o sets, by "service/type/parameter"."""
        pairs = (line.partition(" = ") for line in self.run("-P", *([pattern] if pattern else [])).splitlines())
        return {name.strip(): value for name, equals, value in pairs if equals}

    @staticmethod
    def _logical_lines(text: str) -> list[str]:
        lines: list[str] = []
        for line in text.splitlines():
            if line[:1] in (" ", "\t") and lines:
                lines[-1] += " " + line.strip()
            else:
                lines.append(line)
        return lines

    # Postfix

    def version(self) -> tuple[int, ...]:
        """The numbers of mail_version: (3, 7, 11); a snapshot's date and an rc mark are left out."""
        return version(self.default("mail_version"))


def version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version such as "3.7.11", "3.12-20260821" or "3.10.0-RC2"."""
    numbers = []
    for part in text.partition("-")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(text: str, unit: str = "s") -> float:
    """A Postfix time such as "3600s", "1h" or "5": a whole number and one unit letter (postconf(5))."""
    number, letter = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, unit)
    if letter not in UNITS or not (number.isascii() and number.isdigit()):
        raise PostconfError(f"{text!r} is not a time: expected a whole number and one of s m h d w")
    return int(number) * UNITS[letter]
