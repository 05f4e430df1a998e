"""DPO, stage 2: teach a tuned model which answers are preferred. The same as `lumi dpo`."""

import sys

from lumi.cli import main

if __name__ == "__main__":
    main(["dpo", *sys.argv[1:]])
