"""The program: `ttl-deploy`, or `python -m ttl_deploy`."""

import signal
from typing import NoReturn

from ttl_deploy.first_use import end_with_one_command, importing


def main() -> NoReturn:
    """Runs the command line; Ctrl-C while Python still imports it ends the process without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_one_command()
    with importing():
        from ttl_deploy.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
