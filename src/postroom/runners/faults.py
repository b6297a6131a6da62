"""How a fault of our own reads in the log: what it is, and where."""

from __future__ import annotations

import os
import sys

from postroom.status import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType


_LIBRARY = os.path.dirname(os.path.dirname(__file__)) + "/"


def program() -> str:
    return os.path.basename(sys.argv[0]).removesuffix(".py")


def words(error: BaseException) -> str:
    """A Fault in its own words, anything else with its kind; and what it came from."""
    text = str(error) if isinstance(error, Fault) else f"{type(error).__name__}: {error}"
    cause = error.__cause__
    return text if cause is None else f"{text}: {type(cause).__name__}: {cause}"


def place(error: BaseException) -> str:
    """Where it was raised: "rule-policy:31 in decide", without importing traceback.

    And which line of the program led there, where it was raised in another file: a KeyError from the library is
    the handler's mistake.
    """
    raised = caller = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if trace.tb_next is None:
            raised = _line(code, trace.tb_lineno)
        elif not code.co_filename.startswith(_LIBRARY):
            caller = _line(code, trace.tb_lineno)
        trace = trace.tb_next
    if not caller or caller.partition(":")[0] == raised.partition(":")[0]:
        return raised or "unknown"
    return f"{raised} from {caller}"


def place_of_thread(thread: int) -> str:
    """Where a thread is now, by its identity, seen from another."""
    frame = sys._current_frames().get(thread)
    return _line(frame.f_code, frame.f_lineno) if frame is not None else "unknown"


def _line(code: CodeType, line: int) -> str:
    return f"{os.path.basename(code.co_filename)}:{line} in {code.co_name}"
