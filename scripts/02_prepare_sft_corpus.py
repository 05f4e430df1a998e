"""SFT, stage 1: data sets of conversations into ids and loss mask. The same as `lumi prepare-sft-corpus`."""

import sys

from lumi.cli import main

if __name__ == "__main__":
    main(["prepare-sft-corpus", *sys.argv[1:]])
