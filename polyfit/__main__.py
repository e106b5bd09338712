"""`python -m polyfit`: the command line, or an error that says how to install it."""

import sys
from collections.abc import Callable


def main() -> None:
    """Run the command line."""
    try:
        run = _load()
    except KeyboardInterrupt:  # libraries take a second or more to load
        print("stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(run())


def _load() -> Callable[[], int]:
    try:
        import matplotlib  # noqa: F401
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        sys.exit(_fail(f"the command line needs {error.name}; install it with: pip install 'fused-polyfit[cli]'"))
    from polyfit.cli.app import run

    return run


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
