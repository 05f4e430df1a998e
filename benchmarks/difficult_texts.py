"""Texts by which two tokenizers are compared: where they are known to part ways, and stretches of real ones."""

from pathlib import Path

from lumi.evaluation.perplexity import read_documents

DIFFICULT = (
    *(
        "",
        " ",
        "  two leading",
        "trailing  ",
        "\n",
        "\n\n\tx",
        "a\r\nb",
        "\x00",
        "    def f(x):\n        return 1234\n",
    ),
    *("<s>text</s><|im_start|>user<|im_end|><unk><pad><0x0A><|reserved_0|>", "1234567890.50%", "a" * 60, " " * 40),
    *(
        "\ufffd",
        "e\u0301\u00e9 \U0001f600\U0001f468\u200d\U0001f469",
        "\u4e2d\u6587\u3000\u65e5\u672c",
        "\u2581x\u2581",
    ),
    *(
        "\u0645\u0631\u062d\u0628\u0627",
        "\u00a0\u2003\u200b",
        "\ufeff\u2028",
        " \n \n\t ",
        ".\n\n\u201cWell,\u201d\u2014\n",
    ),
)


def stretches(files: list[Path], count: int, characters: int = 300) -> list[str]:
    """Return stretches of the files' documents, evenly spread."""
    whole = [document for file in files for document in read_documents(file)]
    starts = [(document, at) for document in whole for at in range(0, len(document), characters)]
    step = max(1, len(starts) // count)
    return [document[at : at + characters] for document, at in starts[::step][:count]]
