"""Trains networks, runs studies and comparisons: see `python main.py --help`."""

import sys

from tem_studies.command_line import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
