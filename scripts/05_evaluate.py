"""Measure a checkpoint. The same as `lumi evaluate`."""

import sys

from lumi.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
