"""`groundup` and `python -m groundup`: the command line, whose imports can be interrupted as well."""

import sys

_interrupts: list[int] = []


def main() -> None:
    """Run the command line; always ends by SystemExit. An interrupt, of an import too, is one line and code 130."""
    try:
        import signal

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
        from groundup.cli.main import main as command_line

        command_line()
    except (KeyboardInterrupt, ImportError) as error:
        # A C extension that is interrupted while it is imported may swallow that, and raise an ImportError.
        if isinstance(error, ImportError) and not _interrupts:
            raise
        print("groundup: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        import signal

        # All is done: an interrupt ends the process, in place of a traceback from what Python does at its exit.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(number: int, frame: object) -> None:
    _interrupts.append(number)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
