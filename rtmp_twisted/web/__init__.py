"""HTTP on Twisted: the operators' site, with health, metrics and the API. Used by tap.py only."""
