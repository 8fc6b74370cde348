"""Conformance: what every protocol, method, data set and backbone must do, as checks that say in one line what they saw.

`densebench check` prints them and the tests carry them out over the whole catalogue. A check is a `Check` in `checking`; each
kind has one function that yields them: `check_protocol`, `check_method`, `check_dataset`, `check_backbone`.
"""
