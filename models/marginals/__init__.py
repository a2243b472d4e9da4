"""Select - measure - generate with a graphical model.

select         which pairs of columns depend on each other, from noisy errors of independence
junction_tree  the cliques that exact inference needs
inference      maximum entropy given noisy tables, by the regularised dual; marginals by automatic differentiation
zeros          declared constraints, as factors that are given
field          the fitted model: sampling, conditioning, saving
generator      the settings, and the function that strings them together
"""
