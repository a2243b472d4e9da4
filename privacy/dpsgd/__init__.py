"""DP-SGD: gradient descent in which each privacy unit's gradient is clipped and noise is added to the sum."""
