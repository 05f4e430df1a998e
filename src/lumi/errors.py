"""The errors a user can meet.

A message states the fact, the values, and the way out; the command line prints it on its own, without a
traceback, and exits with 1. Anything else that escapes is a bug in Lumi and keeps its traceback.
"""


class LumiError(Exception):
    """A fact the user can act on.

    Args:
        fact: what is wrong, with the values and the place.
        way_out: what to do about it, preferably a command.
    """

    def __init__(self, fact: str, way_out: str) -> None:
        super().__init__(fact, way_out)  # as they are, so that an error comes whole out of a worker process
        self.fact = fact
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.fact}\n  -> {self.way_out}"


class ConfigError(LumiError):
    """A config file or the command line asks for something impossible."""


class DataError(LumiError):
    """Input data cannot be used: missing, empty, unreadable, of another shape."""


class IntegrityError(LumiError):
    """An artifact is incomplete, or its bytes are not those its manifest names."""


class TokenizerMissing(LumiError):
    """There is no tokenizer where one is needed."""


class TokenizerMismatch(LumiError):
    """Two artifacts were made with different tokenizers."""


class ResumeError(LumiError):
    """A checkpoint cannot be continued as asked."""
