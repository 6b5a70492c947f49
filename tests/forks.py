"""Processes without the ten seconds of imports that each would begin with: forked. POSIX systems only."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from accelerate.state import AcceleratorState


def start(log: Path, function: Callable, *arguments, **environment: str) -> int:
    """Call `function` in a process of its own, which writes what it prints into `log`; the process's id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.environ.update(environment)
        AcceleratorState._reset_state(reset_partial_state=True)  # what the parent has been: a process on its own
        sys.stdout = sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115  open until the process ends
        for stream in (1, 2):
            os.dup2(sys.stdout.fileno(), stream)
        function(*arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(process: int) -> int:
    """Its exit code, once it has ended; minus the signal's number if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def running(process: int) -> bool:
    return os.waitpid(process, os.WNOHANG) == (0, 0)
