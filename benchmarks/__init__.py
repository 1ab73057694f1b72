"""Every figure the project claims: one module a point, `make bar P=<point>` measures it afresh."""
