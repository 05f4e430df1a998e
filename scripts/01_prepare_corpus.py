"""Stage 1: clean raw text into a corpus. The same as `lumi prepare-corpus`."""

import sys

from lumi.cli import main

if __name__ == "__main__":
    main(["prepare-corpus", *sys.argv[1:]])
