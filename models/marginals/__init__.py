"""Select - measure - generate with a graphical model.

select         which pairs of columns depend on each other, from noisy errors of independence
junction_tree  the cliques that exact inference needs
inference      maximum entropy given noisy tables, by the regularised dual; marginals by automatic differentiation
tilt, tilted   tables beyond the junction tree, by weighing and redrawing its rows
rounding       whole rows whose tables keep the weighted counts
measuring      the tables of chosen pairs, bought
fitting        from noisy tables to a model
adaptive       pairs chosen in rounds
limits         what a fit may take of time and memory
zeros          declared constraints, as factors that are given
field          the fitted model: sampling, conditioning, saving
generator      the settings, and the function that strings them together
"""
