"""Assessment: results against targets and published models, and what to try next."""

from lumi.assessment.assess import AssessConfig, assess

__all__ = ["AssessConfig", "assess"]
