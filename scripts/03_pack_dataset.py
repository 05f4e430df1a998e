"""Stage 3: tokenize a corpus and pack it into rows. The same as `lumi pack`."""

import sys

from lumi.cli import main

if __name__ == "__main__":
    main(["pack", *sys.argv[1:]])
