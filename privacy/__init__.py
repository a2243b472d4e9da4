"""The privacy core: budget, accountant, ledger, noise, the one door to private rows, and PII. Imports nothing of dpsynth."""

if not __name__.startswith("dpsynth."):
    raise ImportError("import dpsynth.privacy, not privacy: a second copy of the classes would be made")
