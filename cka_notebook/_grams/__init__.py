"""The activations of one layer become one packed, U-centered Gram matrix."""
