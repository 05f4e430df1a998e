"""Pre-train a model from scratch; the same command again resumes. The same as `lumi pretrain`."""

import sys

from lumi.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
