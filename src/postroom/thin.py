"""Run a program of pipe(8) or spawn(8) by the resident service; where there is none, become the program.

    argv=/opt/postroom/bin/python -I -S .../postroom/thin.py /opt/postroom/bin/rule-deliver --config FILE -- ...

A program that starts by itself hands off, too. But by then Python has run `site`, a third of a start, and has compiled
the program's file: this one is short, since it is compiled each time, and what it imports is kept compiled.
"""

import sys

try:
    sys.path.insert(0, __file__[: -len("/postroom/thin.py")])
    from postroom.handoff import thin

    thin()
except BaseException:  # nothing of the library can be read, or no program is there: which of them says so best
    import posix

    try:
        posix.execv(sys.argv[1], sys.argv[1:])
    finally:
        posix._exit(75)
