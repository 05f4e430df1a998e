"""Serve models over HTTP. The same as `lumi serve`."""

import sys

from lumi.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
