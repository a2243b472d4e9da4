"""From events to (epsilon, delta) and back.

gaussian    the Gaussian mechanism, exactly
profile     a guarantee as a curve, and what it means for an attacker
cost        what events cost as a value that adds up; filters that hold a sum under a cap
"""

from dpsynth.privacy.accounting.cost import ORDERS, Cost, Filter, Rule, renyi_epsilon
from dpsynth.privacy.accounting.gaussian import gaussian_delta, gaussian_epsilon, gaussian_mu, require_budget
from dpsynth.privacy.accounting.profile import GaussianProfile, Profile
from dpsynth.privacy.accounting.total import cost_of, profile_of

__all__ = [
    "ORDERS",
    "Cost",
    "Filter",
    "GaussianProfile",
    "Profile",
    "Rule",
    "cost_of",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_mu",
    "profile_of",
    "renyi_epsilon",
    "require_budget",
]
