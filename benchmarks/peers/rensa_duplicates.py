"""Near duplicates by rensa, as its README recommends; run by the peers' Python.

    python rensa_duplicates.py documents.jsonl kept.json --bands 20

Rows are {"number", "text"}; what is kept is written as a list of numbers. Shingles are made as the truth makes them.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from rensa import RMinHashDeduplicator

WORD = re.compile(r"[^\W_]+")
SHINGLE = 5


def shingles_of(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    return [" ".join(words[at : at + SHINGLE]) for at in range(max(1, len(words) - SHINGLE + 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--bands", type=int, help="default: rensa's own choice")
    parser.add_argument("--threshold", type=float, default=0.8)
    arguments = parser.parse_args()
    numbers: list[int] = []

    def entries() -> Iterator[tuple[str, list[str]]]:
        with arguments.documents.open(encoding="utf8") as file:
            for line in file:
                row = json.loads(line)
                numbers.append(row["number"])
                yield str(row["number"]), shingles_of(row["text"])

    tool = RMinHashDeduplicator(
        threshold=arguments.threshold, num_perm=100, use_lsh=True, num_bands=arguments.bands, seed=42
    )
    flags = tool.add_pairs(entries())
    kept = [number for number, keep in zip(numbers, flags, strict=True) if keep]
    arguments.kept.write_text(json.dumps(kept), encoding="utf8")


if __name__ == "__main__":
    main()
