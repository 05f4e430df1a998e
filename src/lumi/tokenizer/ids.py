"""The ids that every Lumi tokenizer gives its control symbols; text never encodes to one of them."""

UNK_ID = 0
BOS_ID = 1  # <s>, before each document
EOS_ID = 2  # </s>, after each document
PAD_ID = 3  # fills the last row; never scored
IM_START_ID = 4  # <|im_start|>, begins a turn
IM_END_ID = 5  # <|im_end|>, ends a turn
NUM_RESERVED = 10  # <|reserved_0|>... for symbols of later stages

CONTROL_SYMBOLS = (
    "<s>",
    "</s>",
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|reserved_{number}|>" for number in range(NUM_RESERVED)),
)
NUM_CONTROL = 1 + len(CONTROL_SYMBOLS)  # <unk> and the control symbols take the first ids
