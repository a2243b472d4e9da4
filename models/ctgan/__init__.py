"""A conditional generator and a critic for mixed tables, after CTGAN; only the critic sees rows, and by DP-SGD.

networks    the generator, which fills in the columns of a row that are not known yet, and the critic
warm_up     both learn from rows of the marginals model, as long as one likes: post-processing
training    the critic's DP-SGD on the private rows, against the generator's
field       the fitted model: the generator's rows, weighed by the critic and by the tables that were bought
generator   the settings, and the function that strings them together
"""
