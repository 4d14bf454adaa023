"""Balancers: which endpoint gets the next try. One file for each, and a table of their names."""
