"""Protocols as bytes in, events out. No module here does I/O, reads a clock or knows what a rule is."""
