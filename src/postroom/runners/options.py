"""The options that every program has, read without argparse: it alone doubles a program's start-up.

PROGRAM [--config FILE] [--log DEST] [--state DIR] [--deadline SECONDS] [--handoff PATH|no] [--help] [-- name=value ...]
"""

from __future__ import annotations

from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_CONFIG = "/etc/postroom/postroom.toml"
_VALUED = ("--config", "--log", "--state", "--deadline", "--handoff")


class Options:
    """`log`, `state` and `deadline` (seconds) are None where the configuration file decides, `table` where none is.

    `handoff` has been seen to when options are parsed (postroom.handoff).
    """

    __slots__ = ("config", "deadline", "handoff", "help", "log", "state", "table", "words")

    def __init__(self) -> None:
        self.config = DEFAULT_CONFIG
        self.log: str | None = None
        self.state: str | None = None
        self.deadline: float | None = None
        self.handoff: str | None = None
        self.table: str | None = None
        self.help = False
        self.words: list[str] = []


def parse(arguments: Sequence[str], options: Options | None = None, more: tuple[str, ...] = ()) -> Options:
    """Read `sys.argv[1:]`. Raises ConfigurationFault; what it complains of stands in master.cf.

    `more` are the options that only some programs have, such as "--table". Given `options`, it fills those: what was
    understood before the complaint (where to log, say) then counts.
    """
    options = options or Options()
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        if word == "--":
            options.words = list(arguments[position:])
            break
        if word in ("--help", "-h"):
            options.help = True
            continue
        name, equals, value = word.partition("=")
        if name not in _VALUED and name not in more:
            known = " ".join((*_VALUED, *more))
            raise ConfigurationFault(
                f"master.cf: unknown argument {word[:60]!r}, expected {known}, then -- name=${{macro}} ..."
            )
        if not equals:
            if position >= len(arguments):
                raise ConfigurationFault(f"master.cf: {name} needs a value")
            value = arguments[position]
            position += 1
        _set(options, name, value)
    return options


def _set(options: Options, name: str, value: str) -> None:
    if not value:
        raise ConfigurationFault(f"master.cf: {name} needs a value")
    if name != "--deadline":
        setattr(options, name[2:], value)
        return
    try:
        options.deadline = float(value)
    except ValueError:
        options.deadline = 0.0
    if not 0 < options.deadline < 86400:
        raise ConfigurationFault(f"master.cf: --deadline {value[:20]!r}, expected seconds, such as 250")
