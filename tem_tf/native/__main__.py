"""`python -m tem_tf.native build|status`."""

import argparse
import sys

from tem_tf import native


def main() -> int:
    """Builds the library or says whether it is in use; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tem_tf.native", description="The native kernels of tem_tf."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="say whether they are in use, and why")
    build = commands.add_parser("build", help="compile them, unless that was done")
    build.add_argument("--force", action="store_true", help="compile in any case")
    build.add_argument(
        "--sanitize", action="store_true", help="a second build, for AddressSanitizer"
    )
    arguments = parser.parse_args()
    if arguments.command == "build":
        try:
            print(native.build(arguments.sanitize, arguments.force))
        except native.BuildError as error:
            print(
                "warning: the native kernels were not built; tem_tf works without "
                f"them, more slowly.\n{error}",
                file=sys.stderr,
            )
            return 1
        return 0
    try:
        status = native.status()
    except ValueError as error:  # TEM_TF_NATIVE.
        parser.error(str(error))
    print(f"native kernels: {'in use' if status.in_use else 'not in use'}")
    print(f"why: {status.reason}")
    if status.path is not None:
        print(f"library: {status.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
