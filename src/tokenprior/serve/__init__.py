"""Doors that stay open: the proxy, and what else is served."""
