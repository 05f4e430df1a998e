"""Stage 2: train the one tokenizer, once. The same as `lumi train-tokenizer`."""

import sys

from lumi.cli import main

if __name__ == "__main__":
    main(["train-tokenizer", *sys.argv[1:]])
