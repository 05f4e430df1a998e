"""Serving: trained models behind an HTTP server that speaks OpenAI's protocol."""

from lumi.serving.command import ServeConfig, serve
from lumi.serving.limits import Limits

__all__ = ["Limits", "ServeConfig", "serve"]
