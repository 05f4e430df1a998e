"""Conversations: messages, the templates they are written down with, and the one function that does it."""

from lumi.conversation.messages import Message, Role, problem_of
from lumi.conversation.render import Encoder, Rendered, render
from lumi.conversation.template import TEMPLATES, Template, find_template, read_template

__all__ = [
    "TEMPLATES", "Encoder", "Message", "Rendered", "Role", "Template", "find_template", "problem_of", "read_template",
    "render",
]  # fmt: skip
