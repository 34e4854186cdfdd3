"""Experiments on models under study, one file per topic of the paper."""
