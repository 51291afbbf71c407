"""The command line: for the administrator who runs the node, and whoever tries it out."""

import io
import os
import sys

from config.errors import ConfigError, PacsimileError
from node.processes import INTERRUPTED, interrupt_ends

__all__ = ["main"]


def main() -> None:
    """Run `pacsimile`: exit status 0 done, 1 failed, 2 the call or the settings are not usable, 130 interrupted."""
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run() -> None:
    # Matrices here are small: threads of the linear algebra library would only wait for each other, at full speed.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Imported only now, so that an interrupt while the libraries load is answered as well.
    with interrupt_ends():
        from node.cli.app import app
        from node.cli.output import print_problem

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            print_problem(problem)
        sys.exit(2)
    except PacsimileError as error:
        print_problem(str(error))
        sys.exit(1)
    except OSError as error:
        print_problem(f"{error.filename or 'the system'}: {error.strerror or type(error).__name__}")
        sys.exit(1)
    except Exception as error:
        if os.environ.get("PACSIMILE_LOG_LEVEL") == "DEBUG":
            raise
        print_problem(f"unexpected {type(error).__name__}; with PACSIMILE_LOG_LEVEL=DEBUG it says where")
        sys.exit(1)
