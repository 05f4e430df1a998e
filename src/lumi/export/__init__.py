"""Export: a checkpoint in the forms that other programs read."""

from lumi.export.export import ExportConfig, export

__all__ = ["ExportConfig", "export"]
