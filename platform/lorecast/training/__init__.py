"""Training: the step, the loop with early stop, metrics."""
