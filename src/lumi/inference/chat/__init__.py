"""`lumi chat`: a conversation in the terminal, with a checkpoint or with a server.

prompt --> commands --> conversation --> answerer: engine, or server --> view
"""

from lumi.inference.chat.command import ChatConfig, run_chat

__all__ = ["ChatConfig", "run_chat"]
