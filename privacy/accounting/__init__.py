"""From events to (epsilon, delta) and back.

gaussian    the Gaussian mechanism, exactly
curves      the other mechanisms: for each a pair of distributions that is at least as easy to tell apart
pld         such pairs composed numerically, always rounded towards more loss
renyi       the same mechanisms by Renyi divergences, which add up however they were chosen
total       what a tree of events costs together
cost        what events cost as a value that adds up; filters that hold a sum under a cap
profile     a guarantee as a curve, and what it means for an attacker
calibrate   from a budget to noise
"""

from dpsynth.privacy.accounting.calibrate import calibrate
from dpsynth.privacy.accounting.cost import ORDERS, Cost, Filter, Rule, renyi_epsilon
from dpsynth.privacy.accounting.gaussian import (
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    mu_of_pure,
    pure_of_mu,
    require_budget,
)
from dpsynth.privacy.accounting.profile import GaussianProfile, Profile
from dpsynth.privacy.accounting.total import cost_of, planned_epsilon, profile_of

__all__ = [
    "ORDERS",
    "Cost",
    "Filter",
    "GaussianProfile",
    "Profile",
    "Rule",
    "calibrate",
    "cost_of",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_mu",
    "mu_of_pure",
    "planned_epsilon",
    "profile_of",
    "pure_of_mu",
    "renyi_epsilon",
    "require_budget",
]
