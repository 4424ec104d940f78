"""Room: looking for a fault, and for where the time goes."""

from common.diagnose.inspector import Inspector
from common.diagnose.profiling import profile_runtime

__all__ = ["Inspector", "profile_runtime"]
