"""SFT, stage 2: teach a model to answer. The same as `lumi sft`."""

import sys

from lumi.cli import main

if __name__ == "__main__":
    main(["sft", *sys.argv[1:]])
