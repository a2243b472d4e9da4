"""What learns: each model family in a folder of its own, behind one small protocol."""

if not __name__.startswith("dpsynth."):
    raise ImportError("import dpsynth.models, not models: a second copy of the classes would be made")
