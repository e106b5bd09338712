"""`python -m polyfit`: the command line, or an error that says how to install it."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        import matplotlib  # noqa: F401
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as error:
        sys.exit(_fail(f"the command line needs {error.name}; install it with: pip install 'fused-polyfit[cli]'"))
    from polyfit.cli.app import run

    sys.exit(run())


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
