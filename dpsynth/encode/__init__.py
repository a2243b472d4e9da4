"""A table's cells <-> codes.

questions  codings that ask what a column is (kinds, decimals, range); used while the schema is learned
cells      the fine cells of a column: categories, or atoms and intervals of a number line
codec      fine cells grouped into the codes that a model works on, and the way back to values
"""
