"""The tokenizer in use: text to ids and back, the sha256 of its model, and its copy inside checkpoints.

`encode` adds nothing: packing and templates place ``<s>`` and the ends. Control symbols enter by id alone; their
spelling inside a text is encoded as ordinary characters.
"""

import shutil
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumi.artifacts import (
    MANIFEST,
    Input,
    artifact_input,
    file_input,
    read_manifest,
    sha256_bytes,
    sha256_file,
    verify,
)
from lumi.errors import DataError, IntegrityError, TokenizerMismatch, TokenizerMissing
from lumi.progress import say
from lumi.tokenizer.ids import CONTROL_SYMBOLS, NUM_CONTROL
from lumi.tokenizer.transformers_files import TRANSFORMERS_FILES, write_transformers_files

TOKENIZER = "tokenizer"
CHECKPOINT_MODEL = "tokenizer.model"

# Where encoders are known to part ways; checked each time a tokenizer is loaded.
_PROBES = (
    *("", " ", "  leading", "trailing ", "\n", "\n\n\tx", "    def f(x):\n        return 1234\n", "a\r\nb", "\x00"),
    *("<s>text</s><|im_start|>user<|im_end|><unk><pad><0x0A>", "1234567890.50%", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    *("\ufffd", "e\u0301\u00e9 \U0001f600\U0001f468\u200d\U0001f469", "\u4e2d\u6587\u3000\u65e5\u672c"),
    *(
        "\u0645\u0631\u062d\u0628\u0627",
        "\u00a0\u2003\u200b",
        "\ufeff\u2028",
        " \n \n\t ",
        ".\n\n\u201cWell,\u201d he said\u2014\n",
    ),
)


_IN_USE = 5  # control symbols; the rest are reserved


class Tokenizer:
    """The one frozen tokenizer. Made by `Tokenizer.load`.

    Args:
        model: the bytes of the SentencePiece model.
        folder: where its transformers files stand.
        file: the model's file.
    """

    def __init__(self, model: bytes, folder: Path, file: Path) -> None:
        from kitoken import Kitoken
        from sentencepiece import SentencePieceProcessor

        self._plain = SentencePieceProcessor(model_proto=model)
        self._fast: Any = Kitoken.from_sentencepiece(model)
        self._folder, self._file = folder, file
        self.sha256 = sha256_bytes(model)
        self.vocab_size: int = self._plain.vocab_size()
        if any(list(self._fast.encode(probe, False)) != self._plain.encode(probe) for probe in _PROBES):
            say("the fast encoder disagrees with SentencePiece on this tokenizer; using SentencePiece")
            self._fast = None

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Load from a ``.model`` file, a tokenizer folder or a checkpoint folder.

        Raises:
            TokenizerMissing: nothing there.
            IntegrityError: the folder's manifest does not fit its files.
            DataError: the file is no SentencePiece model.
        """
        way_out = "train it once (make tokenizer-train-mix), or give --tokenizer_path"
        folder = path if path.is_dir() else path.parent
        if path.is_dir():
            found = [*sorted(path.glob("*.model"))]
            if not found:
                raise TokenizerMissing(f"No tokenizer found: {path} has no .model file", way_out)
            path = found[0]
        if not path.is_file():
            raise TokenizerMissing(f"No tokenizer found at {path}", way_out)
        restore = f"restore {folder} from a copy: data and models depend on its bytes"
        if (folder / MANIFEST).is_file() and path.name != CHECKPOINT_MODEL:
            verify(folder, TOKENIZER, restore)
        elif (folder / MANIFEST).is_file():  # of a checkpoint this one file; its other readers verify the rest
            for out in read_manifest(folder, "checkpoint", restore).files(prefix=CHECKPOINT_MODEL):
                if (found_sha := sha256_file(path)) != out.sha256:
                    raise IntegrityError(
                        f"{path} is damaged: sha256 {found_sha[:12]}, its manifest says {out.sha256[:12]}", restore
                    )
        try:
            tokenizer = cls(path.read_bytes(), folder, path)
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{path} is not a SentencePiece model: {error}", way_out) from None
        if not tokenizer.has_control_symbols():
            raise DataError(
                f"{path} was not made by Lumi: its first ids are not {', '.join(CONTROL_SYMBOLS[:_IN_USE])}", way_out
            )
        return tokenizer

    def has_control_symbols(self) -> bool:
        """Return whether the first ids are the symbols that everything here takes them for."""
        if self.vocab_size < NUM_CONTROL:
            return False
        found = [self._plain.id_to_piece(1 + number) for number in range(_IN_USE)]
        return found == list(CONTROL_SYMBOLS[:_IN_USE]) and all(map(self._plain.is_control, range(1, NUM_CONTROL)))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, nothing added."""
        if self._fast is None:
            ids: list[int] = self._plain.encode(text)
            return ids
        return list(self._fast.encode(text, False))

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint16]]:
        """Return the ids of many texts, uint16 each; to use many CPUs, use processes (threads wait for each other)."""
        return [np.array(self.encode(text), dtype=np.uint16) for text in texts]

    def decode(self, ids: Iterable[int], *, keep_control: bool = False) -> str:
        """Return the text of ids; control symbols give nothing, or their spelling with ``keep_control``.

        Bytes that are not UTF-8 (an answer cut inside a character) become U+FFFD.
        """
        pieces = self._pieces if not keep_control else self._spelled_pieces
        return b"".join([pieces[token] for token in ids]).decode("utf8", errors="replace")

    def piece_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes that an id stands for; empty for control symbols."""
        return self._pieces[token]

    def piece_text(self, token: int) -> str | None:
        """Return the text that an id stands for; None for a part of a character."""
        return self._piece_texts[token]

    def is_byte(self, token: int) -> bool:
        """Say whether an id stands for a single byte of a character without a piece of its own."""
        found: bool = self._plain.is_byte(token)
        return found

    @cached_property
    def _pieces(self) -> list[bytes]:
        model = self._plain
        pieces = []
        for token in range(self.vocab_size):
            if model.is_byte(token):
                pieces.append(bytes([int(model.id_to_piece(token)[3:5], 16)]))
            elif model.is_control(token) or model.is_unknown(token):
                pieces.append(b"")
            else:
                pieces.append(model.id_to_piece(token).replace("\u2581", " ").encode())
        return pieces

    @cached_property
    def _piece_texts(self) -> list[str | None]:
        return [None if self._plain.is_byte(token) else piece.decode() for token, piece in enumerate(self._pieces)]

    @cached_property
    def _spelled_pieces(self) -> list[bytes]:
        return [b"<unk>", *(name.encode() for name in CONTROL_SYMBOLS), *self._pieces[NUM_CONTROL:]]

    def as_input(self, relative_to: Path) -> Input:
        """Describe this tokenizer as an input of an artifact that will stand at ``relative_to``."""
        if (self._folder / MANIFEST).is_file() and self._file.name != CHECKPOINT_MODEL:
            return artifact_input(self._folder, relative_to)
        return file_input(self._file, relative_to)

    def export(self, folder: Path) -> list[str]:
        """Copy the tokenizer into a checkpoint folder, so that AutoTokenizer loads it there; return the files."""
        shutil.copyfile(self._file, folder / CHECKPOINT_MODEL)
        if all((self._folder / name).is_file() for name in TRANSFORMERS_FILES):
            for name in TRANSFORMERS_FILES:
                shutil.copyfile(self._folder / name, folder / name)
        else:  # a lone .model file
            write_transformers_files(folder, self._file.read_bytes())
        return [CHECKPOINT_MODEL, *TRANSFORMERS_FILES]


def require_same_tokenizer(expected: str, found: str, where: str) -> None:
    """Compare two tokenizers by the sha256 of their models.

    Raises:
        TokenizerMismatch: they differ; ``where`` is the folder with the other one.
    """
    if expected != found:
        raise TokenizerMismatch(
            f"Tokenizer mismatch between datasets: {where} has tokenizer {found[:12]}, expected {expected[:12]}",
            f"encode it again with the present tokenizer: make reencode-dataset DIR={where}",
        )
