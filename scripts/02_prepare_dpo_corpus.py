"""DPO, stage 1: data sets of preferences into pairs of conversations. The same as `lumi prepare-dpo-corpus`."""

import sys

from lumi.cli import main

if __name__ == "__main__":
    main(["prepare-dpo-corpus", *sys.argv[1:]])
