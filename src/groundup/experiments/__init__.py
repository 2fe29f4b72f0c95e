"""Questions about training, and the runs that answer them."""
