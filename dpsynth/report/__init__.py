"""Reports: standalone HTML without a network or a script, and tables for the terminal.

shareable  what goes to the partner team: DP measurements and the synthetic table alone
internal   what stays with the owner: real against synthetic, marked as private
terminal   the same in Rich
plots      inline SVG
"""
