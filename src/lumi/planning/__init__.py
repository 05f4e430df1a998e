"""What a run will cost, before anything runs: `lumi plan`."""

from lumi.planning.command import plan
from lumi.planning.config import PlanConfig
from lumi.planning.estimate import Plan, make_plan

__all__ = ["Plan", "PlanConfig", "make_plan", "plan"]
