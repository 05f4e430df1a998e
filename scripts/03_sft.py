"""SFT with TRL's SFTTrainer in place of our engine. The same as `lumi sft --use_trl_trainer`."""

import sys

from lumi.cli import main

if __name__ == "__main__":
    main(["sft", "--use_trl_trainer", *sys.argv[1:]])
