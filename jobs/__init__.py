"""How work is done in batch: one module a stage, on Ray Data and Ray Train, and the CLI."""
