"""How models answer online: the HTTP application on Ray Serve."""
