"""Start `vethd`: forward first what a predecessor left, and only then import the rest."""

from __future__ import annotations

from vethd.daemon import early


def main() -> None:
    """Run the command."""
    begun = early.begin("vethd.daemon.cli")
    from vethd.daemon import cli  # noqa: PLC0415  it takes half a second

    cli.run(begun)


if __name__ == "__main__":
    main()
